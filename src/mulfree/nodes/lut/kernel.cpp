// A lookup table for each channel.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/byte_ops.h"

namespace mulfree::nodes {
namespace {

void append(Builder& node, const Fields& fields) {
  const Value& x = node.read();
  const Value& y = node.write(x.c, x.h, x.w);
  node.append(make_lut(&x, &y, fields.array<u8>("table", {x.c, 256})));
}

const NodeKernel kernel("lut", append);

}  // namespace
}  // namespace mulfree::nodes

// A border of zeros.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/byte_ops.h"

namespace mulfree::nodes {
namespace {

void append(Builder& node, const Fields& fields) {
  const Value& x = node.read();
  const auto side = [&](const char* name) { return fields.number(name, 0, kMaxBytes); };
  const i64 left = side("left"), top = side("top");
  const Value& y = node.write(x.c, x.h + top + side("bottom"), x.w + left + side("right"));
  node.append(make_pad(&x, &y, left, top));
}

const NodeKernel kernel("pad", append);

}  // namespace
}  // namespace mulfree::nodes

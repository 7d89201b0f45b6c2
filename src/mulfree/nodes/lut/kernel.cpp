// A lookup table for each channel.
#include "nodes/csrc/byte_ops.h"

namespace mulfree::nodes {

MULFREE_NODE(lut) {
  const Value& x = node.read();
  const Value& y = node.write(x.c, x.h, x.w);
  append_lut(node, &x, &y, fields.array<u8>("table", {x.c, 256}));
}

}  // namespace mulfree::nodes

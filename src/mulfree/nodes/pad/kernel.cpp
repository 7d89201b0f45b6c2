// A border of zeros.
#include "nodes/csrc/byte_ops.h"

namespace mulfree::nodes {

MULFREE_NODE(pad) {
  const Value& x = node.read();
  const auto side = [&](const char* name) { return fields.number(name, 0, kMaxBytes); };
  const i64 left = side("left"), top = side("top");
  const Value& y = node.write(x.c, x.h + top + side("bottom"), x.w + left + side("right"));
  append_pad(node, &x, &y, left, top);
}

}  // namespace mulfree::nodes

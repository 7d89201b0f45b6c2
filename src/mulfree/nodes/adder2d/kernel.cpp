// The adder layer in integers.
#include "nodes/csrc/window/window_op.h"

namespace mulfree::nodes {

MULFREE_NODE(adder2d) { append_window<u8>(node, fields, Op::adder); }

}  // namespace mulfree::nodes

// The convolution in integers.
#include "nodes/csrc/window/window_op.h"

namespace mulfree::nodes {

MULFREE_NODE(conv2d) { append_window<i8>(node, fields, Op::conv); }

}  // namespace mulfree::nodes

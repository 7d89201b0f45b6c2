// The convolution in integers.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/window/window_op.h"

namespace mulfree::nodes {
namespace {

void append(Builder& node, const Fields& fields) { append_window<i8>(node, fields, Op::conv); }

const NodeKernel kernel("conv2d", append);

}  // namespace
}  // namespace mulfree::nodes

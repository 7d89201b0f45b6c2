// The adder layer in integers.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/window/window_op.h"

namespace mulfree::nodes {
namespace {

void append(Builder& node, const Fields& fields) { append_window<u8>(node, fields, Op::adder); }

const NodeKernel kernel("adder2d", append);

}  // namespace
}  // namespace mulfree::nodes

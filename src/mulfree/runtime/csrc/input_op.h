// The first op of a program, which reads the images.
#pragma once

#include <vector>

#include "nodes/csrc/native_op.h"

namespace mulfree::runtime {

// y = table[c, pixel], or y is the input of a frame that is quantised.
nodes::NativeOp input_op(const nodes::Value* y, std::vector<nodes::u8> tables);

}  // namespace mulfree::runtime

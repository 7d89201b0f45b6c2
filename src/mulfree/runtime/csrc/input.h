// The op that makes the first value.
#pragma once

#include "nodes/csrc/native_op.h"

namespace mulfree::runtime {

// y = table[c, pixel], or y is the input of a frame that is quantised.
nodes::NativeOpPointer make_input(const nodes::Value* y, std::vector<nodes::u8> table);

}  // namespace mulfree::runtime

// Ops on bytes that kernels of several nodes append.
#pragma once

#include "native_op.h"

namespace mulfree::nodes {

NativeOpPointer make_lut(const Value* x, const Value* y, std::vector<u8> table);
NativeOpPointer make_pad(const Value* x, const Value* y, i64 left, i64 top);

}  // namespace mulfree::nodes

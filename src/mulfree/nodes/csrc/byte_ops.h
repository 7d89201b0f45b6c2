// Ops on bytes that kernels of several nodes append; each returns y.
#pragma once

#include "builder.h"

namespace mulfree::nodes {

// `table` [c, 256].
const Value* append_lut(Builder& node, const Value* x, const Value* y, std::vector<u8> table);
const Value* append_pad(Builder& node, const Value* x, const Value* y, i64 left, i64 top);

}  // namespace mulfree::nodes

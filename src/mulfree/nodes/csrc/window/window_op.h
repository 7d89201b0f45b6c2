// Layers of windows as ops of a program.
#pragma once

#include "nodes/csrc/builder.h"

namespace mulfree::nodes {

// The first byte of the first window of a layer with this padding.
inline const u8* first_window(const Value& x, Pair padding, u8* arena) {
  return x.origin(arena) - padding.first * x.row() - padding.second * x.c;
}

// Appends the op of a layer, named after its kernel.
void append_layer(Builder& node, NativeOp op);

// Appends an adder (W is u8) or convolution (i8) layer; a second value that the node reads is the
// residual.
template <class W>
void append_window(Builder& node, const Fields& fields, Op op);

}  // namespace mulfree::nodes

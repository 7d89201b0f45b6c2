// The kernels of one instruction set, made of its traits.
#pragma once

#include "depthwise.h"
#include "tiles.h"

namespace mulfree::nodes {
namespace {

// Traits `Isa`: the taps Adder, NarrowAdder, Conv (tiles.h), DepthwiseAdder, DepthwiseConv
// (depthwise.h), kNarrow as in Kernels, and requantise.
template <class Isa>
constexpr Kernels make_kernels() {
  return {window_kernel<Isa, typename Isa::Adder>(Isa::Adder::kName),
          window_kernel<Isa, typename Isa::NarrowAdder>(Isa::NarrowAdder::kName),
          window_kernel<Isa, typename Isa::Conv>(Isa::Conv::kName),
          depthwise_kernel<Isa, typename Isa::DepthwiseAdder>("depthwise"),
          depthwise_kernel<Isa, typename Isa::DepthwiseConv>("depthwise"),
          Isa::kNarrow};
}

}  // namespace
}  // namespace mulfree::nodes

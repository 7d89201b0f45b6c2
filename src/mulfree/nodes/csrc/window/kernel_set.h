// The kernels of one instruction set, made of its traits.
#pragma once

#include <type_traits>

#include "depthwise.h"
#include "tiles.h"

namespace mulfree::nodes {
namespace {

// Traits `Isa`: the taps Adder, NarrowAdder, Conv, ShortConv (over 16-bit numbers, or Conv),
// DepthwiseAdder, DepthwiseConv (depthwise.h), kNarrow as in Kernels, and requantise.
template <class Isa>
constexpr Kernel short_conv() {
  if constexpr (std::is_same_v<typename Isa::ShortConv, typename Isa::Conv>) {
    return window_kernel<Isa, typename Isa::Conv>(Isa::Conv::kName);
  } else {
    return widened_kernel<Isa, typename Isa::ShortConv>(Isa::ShortConv::kName);
  }
}

template <class Isa>
constexpr Kernels make_kernels() {
  return {window_kernel<Isa, typename Isa::Adder>(Isa::Adder::kName),
          window_kernel<Isa, typename Isa::NarrowAdder>(Isa::NarrowAdder::kName),
          window_kernel<Isa, typename Isa::Conv>(Isa::Conv::kName),
          short_conv<Isa>(),
          depthwise_kernel<Isa, typename Isa::DepthwiseAdder>("depthwise"),
          depthwise_kernel<Isa, typename Isa::DepthwiseConv>("depthwise"),
          Isa::kNarrow};
}

}  // namespace
}  // namespace mulfree::nodes

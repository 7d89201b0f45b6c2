// Depthwise windows: lanes are channels, and K is taps. A block of lanes reads its channels of each
// tap's pixel, which a border around the image makes valid everywhere.
//
// Traits `Tap`: kLanes, kGroup (taps of a step of packed weights), kStepBytes, kPixels (windows
// that share their weights), place, and sums, which writes sums[pixel][kLanes].
#pragma once

#include "tiles.h"

namespace mulfree::nodes {
namespace {

// The channels of one block: packed weights, and the offsets of taps from a window's first byte.
struct DepthwiseBlock {
  const i64* offsets;
  i64 taps;
  const u8* weights;
};

// kTaps is the number of taps, or 0 for any.
template <class Tap, int kTaps>
void depthwise_sums(const DepthwiseBlock& block, const u8* const* windows, i64 pixels, i32* sums) {
  i64 p = 0;
  for (; p + Tap::kPixels <= pixels; p += Tap::kPixels) {
    Tap::template sums<kTaps, Tap::kPixels>(block, windows + p, sums + p * Tap::kLanes);
  }
  for (; p < pixels; ++p) {
    Tap::template sums<kTaps, 1>(block, windows + p, sums + p * Tap::kLanes);
  }
}

template <class Isa, class Tap>
void compute_depthwise(const KernelLayer& layer, const Image& image, const FilterTile* filter_tiles,
                       i64 count, const Prefetch&, i64 begin, i64 end) {
  constexpr i64 kPixels = 8;
  alignas(64) i32 sums[kPixels * Tap::kLanes + kSumSlack];
  const auto sum = layer.runs == 9    ? depthwise_sums<Tap, 9>
                   : layer.runs == 25 ? depthwise_sums<Tap, 25>
                                      : depthwise_sums<Tap, 0>;
  for_chunks(layer, image, kPixels, begin, end, [&](const Chunk& chunk) {
    for (i64 i = 0; i < count; ++i) {
      const FilterTile& channels = filter_tiles[i];
      const u8* windows[kPixels];
      for (i64 p = 0; p < chunk.pixels; ++p) windows[p] = chunk.windows[p] + channels.x;
      sum({layer.run_offsets, layer.runs, channels.weights}, windows, chunk.pixels, sums);
      write<Isa>(layer, image, channels, {chunk, sums, Tap::kLanes});
    }
  });
}

template <class Isa, class Tap>
constexpr Kernel depthwise_kernel(const char* name) {
  return {name,
          {Tap::kLanes, Tap::kGroup, Tap::kStepBytes, 1, true, Tap::place},
          compute_depthwise<Isa, Tap>};
}

// Plain loops over channels, which the compiler vectorises.
template <class Sum, Sum (*kTap)(Sum sum, u8 x, u8 w), i32 (*kResult)(Sum sum)>
struct PlainDepthwise {
  static constexpr i64 kLanes = 64, kGroup = 1, kStepBytes = 64, kPixels = 1;
  static void place(u8* step, i64 lane, i64, int weight) { step[lane] = static_cast<u8>(weight); }
  template <int kTaps, int>
  static void sums(const DepthwiseBlock& block, const u8* const* windows, i32* sums) {
    Sum acc[kLanes] = {};
    const i64 taps = kTaps > 0 ? kTaps : block.taps;
    for (i64 t = 0; t < taps; ++t) {
      const u8* x = windows[0] + block.offsets[t];
      const u8* w = block.weights + t * kStepBytes;
      for (i64 c = 0; c < kLanes; ++c) acc[c] = kTap(acc[c], x[c], w[c]);
    }
    for (i64 c = 0; c < kLanes; ++c) sums[c] = kResult(acc[c]);
  }
};

inline std::uint16_t adder_tap(std::uint16_t sum, u8 x, u8 w) {
  return static_cast<std::uint16_t>(sum + static_cast<u8>((x > w ? x : w) - (x > w ? w : x)));
}
inline i32 adder_result(std::uint16_t sum) { return -i32{sum}; }
inline i32 conv_tap(i32 sum, u8 x, u8 w) { return sum + i32{x} * static_cast<i8>(w); }
inline i32 conv_result(i32 sum) { return sum; }

using PlainDepthwiseAdder = PlainDepthwise<std::uint16_t, adder_tap, adder_result>;
using PlainDepthwiseConv = PlainDepthwise<i32, conv_tap, conv_result>;

}  // namespace
}  // namespace mulfree::nodes

// Depthwise taps of x86, for the traits `V` of vectors whose instructions act on lanes of 16 bytes.
//
// V: kBytes, Vector, zero, load; store, which writes lane l to sums[16 l]; and instructions: max8,
// min8, sub8, add16, sub16, sub32; lower8 and upper8, the bytes of 16-bit elements, and raised8,
// their lower bytes times 256; low16 to high32, which interleave the halves of lanes; dot, which
// adds the dot products of 16-bit pairs.
#pragma once

#include "depthwise.h"

namespace mulfree::nodes {
namespace {

template <class V>
struct VectorDepthwiseAdder {
  static constexpr i64 kLanes = V::kBytes, kGroup = 1, kStepBytes = V::kBytes, kPixels = 2;
  static void place(u8* step, i64 lane, i64, int weight) { step[lane] = static_cast<u8>(weight); }
  template <int kTaps, int kWindows>
  static void sums(const DepthwiseBlock& block, const u8* const* windows, i32* sums) {
    // 16-bit sums of d[2 i] + 256 d[2 i + 1], modulo 2^16, and of d[2 i + 1].
    typename V::Vector both[kWindows], odd[kWindows];
#pragma GCC unroll 2
    for (int p = 0; p < kWindows; ++p) both[p] = odd[p] = V::zero();
    const i64 taps = kTaps > 0 ? kTaps : block.taps;
    const u8* weights = block.weights;
    for (i64 t = 0; t < taps; ++t, weights += kStepBytes) {
      const auto w = V::load(weights);
#pragma GCC unroll 2
      for (int p = 0; p < kWindows; ++p) {
        const auto x = V::load(windows[p] + block.offsets[t]);
        const auto d = V::sub8(V::max8(x, w), V::min8(x, w));
        both[p] = V::add16(both[p], d);
        odd[p] = V::add16(odd[p], V::upper8(d));
      }
    }
    const auto zero = V::zero();
#pragma GCC unroll 2
    for (int p = 0; p < kWindows; ++p) {
      const auto even = V::sub16(both[p], V::raised8(odd[p]));
      const auto front = V::low16(even, odd[p]), back = V::high16(even, odd[p]);
      i32* const to = sums + p * kLanes;
      V::store(to, V::sub32(zero, V::low16(front, zero)));
      V::store(to + 4, V::sub32(zero, V::high16(front, zero)));
      V::store(to + 8, V::sub32(zero, V::low16(back, zero)));
      V::store(to + 12, V::sub32(zero, V::high16(back, zero)));
    }
  }
};

// Dot products of 16-bit pairs, x of two taps: interleaved by 16 bits, a 32-bit element holds the
// bytes of channels 2 i and 2 i + 1 of both taps, which a mask and a shift take apart.
template <class V>
struct VectorDepthwiseConv {
  static constexpr i64 kLanes = V::kBytes, kGroup = 2, kStepBytes = 4 * V::kBytes, kPixels = 2;
  static void place(u8* step, i64 lane, i64 j, int weight) {
    const i64 half = lane % 16 / 8, odd = lane % 2;
    const auto wide = static_cast<std::int16_t>(weight);
    __builtin_memcpy(
        step + (2 * half + odd) * V::kBytes + lane / 16 * 16 + lane % 8 / 2 * 4 + j * 2, &wide,
        sizeof wide);
  }
  template <int kTaps, int kWindows>
  static void sums(const DepthwiseBlock& block, const u8* const* windows, i32* sums) {
    typename V::Vector acc[kWindows][4];
#pragma GCC unroll 2
    for (int p = 0; p < kWindows; ++p) acc[p][0] = acc[p][1] = acc[p][2] = acc[p][3] = V::zero();
    const i64 taps = kTaps > 0 ? kTaps : block.taps;
    const u8* weights = block.weights;
    for (i64 t = 0; t < taps; t += 2, weights += kStepBytes) {
      // The second tap of an odd number's last pair has weight 0.
      const i64 first = block.offsets[t], second = block.offsets[t + 1 < taps ? t + 1 : t];
      const auto w = [&](i64 i) { return V::load(weights + i * V::kBytes); };
#pragma GCC unroll 2
      for (int p = 0; p < kWindows; ++p) {
        const auto x = V::load(windows[p] + first), y = V::load(windows[p] + second);
        const auto front = V::low16(x, y), back = V::high16(x, y);
        acc[p][0] = V::dot(acc[p][0], V::lower8(front), w(0));
        acc[p][1] = V::dot(acc[p][1], V::upper8(front), w(1));
        acc[p][2] = V::dot(acc[p][2], V::lower8(back), w(2));
        acc[p][3] = V::dot(acc[p][3], V::upper8(back), w(3));
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < kWindows; ++p) {
      i32* const to = sums + p * kLanes;
      V::store(to, V::low32(acc[p][0], acc[p][1]));
      V::store(to + 4, V::high32(acc[p][0], acc[p][1]));
      V::store(to + 8, V::low32(acc[p][2], acc[p][3]));
      V::store(to + 12, V::high32(acc[p][2], acc[p][3]));
    }
  }
};

}  // namespace
}  // namespace mulfree::nodes

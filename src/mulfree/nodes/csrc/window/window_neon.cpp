// Integer kernels for ARM with the dot product instructions: four bytes of a pixel meet 4 filters.
#include <arm_neon.h>

#include "kernel_set.h"

namespace mulfree::nodes {
namespace {

struct NeonTap {
  static constexpr i64 kLanes = 4, kGroup = 4, kStepBytes = 16;
  // 24 sums + 4 weights + 1 pixel + ones + temporaries of 32 registers.
  static constexpr int kBlocks = 4, kSums = 24;
  static uint32x4_t group(const u8* x) {
    std::uint32_t bytes;
    __builtin_memcpy(&bytes, x, sizeof bytes);
    return vdupq_n_u32(bytes);
  }
  static void place(u8* step, i64 lane, i64 j, int weight) {
    step[lane * kGroup + j] = static_cast<u8>(weight);
  }
};

struct Neon {
  struct Adder : NeonTap, NoExtras {
    static constexpr const char* kName = "sad neon";
    static constexpr bool kMasksTail = true;
    using Sum = uint32x4_t;
    using X = uint8x16_t;
    using W = uint8x16_t;
    static Sum zero() { return vdupq_n_u32(0); }
    static X broadcast(const u8* x) { return vreinterpretq_u8_u32(group(x)); }
    static X broadcast_first(const u8* x, i64 n) {
      return vreinterpretq_u8_u32(vandq_u32(group(x), vdupq_n_u32((1u << (8 * n)) - 1)));
    }
    static W load(const u8* weights) { return vld1q_u8(weights); }
    static Sum tap(Sum sum, X x, W w) { return vdotq_u32(sum, vabdq_u8(x, w), vdupq_n_u8(1)); }
    static void store(i32* sums, Sum sum, Extra, const i32*) {
      vst1q_s32(sums, vnegq_s32(vreinterpretq_s32_u32(sum)));
    }
  };
  using NarrowAdder = Adder;
  static constexpr i64 kNarrow = 0;

  // sum x w = sum (x - 128) w + 128 sum w, for the dot product of two signed operands.
  struct Conv : NeonTap, NoExtras {
    static constexpr const char* kName = "dot neon";
    static constexpr bool kMasksTail = false;
    using Sum = int32x4_t;
    using X = int8x16_t;
    using W = int8x16_t;
    static Sum zero() { return vdupq_n_s32(0); }
    static X broadcast(const u8* x) {
      return vreinterpretq_s8_u32(veorq_u32(group(x), vdupq_n_u32(0x80808080u)));
    }
    static X broadcast_first(const u8* x, i64) { return broadcast(x); }
    static W load(const u8* weights) { return vreinterpretq_s8_u8(vld1q_u8(weights)); }
    static Sum tap(Sum sum, X x, W w) { return vdotq_s32(sum, x, w); }
    static void store(i32* sums, Sum sum, Extra, const i32* bias) {
      vst1q_s32(sums, vmlaq_n_s32(sum, vld1q_s32(bias), 128));
    }
  };

  using ShortConv = Conv;
  using DepthwiseAdder = PlainDepthwiseAdder;
  using DepthwiseConv = PlainDepthwiseConv;

  // Four filters at a time.
  template <bool kResidual>
  static i64 requantise(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
    const int64x2_t right = vdupq_n_s64(-e.shift);
    i64 t = 0;
    for (; t + 4 <= filters; t += 4) {
      const int32x4_t m = vld1q_s32(e.multiplier + filter + t);
      const std::int64_t* const offset = e.offset + filter + t;
      for (i64 p = 0; p < results.chunk.pixels; ++p) {
        const int32x4_t sums = vld1q_s32(results.sums + p * results.pitch + t);
        int64x2_t v[2] = {vmlal_s32(vld1q_s64(offset), vget_low_s32(sums), vget_low_s32(m)),
                          vmlal_high_s32(vld1q_s64(offset + 2), sums, m)};
        if constexpr (kResidual) {
          const u8* const r = results.chunk.residual[p] + filter + t;
          const int32x4_t residual = {r[0], r[1], r[2], r[3]};
          const int32x4_t factor = vdupq_n_s32(e.residual_multiplier);
          v[0] = vmlal_s32(v[0], vget_low_s32(residual), vget_low_s32(factor));
          v[1] = vmlal_high_s32(v[1], residual, factor);
        }
        // A narrowing that saturates, then the bounds.
        int32x4_t y =
            vcombine_s32(vqmovn_s64(vshlq_s64(v[0], right)), vqmovn_s64(vshlq_s64(v[1], right)));
        y = vmaxq_s32(vdupq_n_s32(e.low), vminq_s32(vdupq_n_s32(e.high), y));
        for (int i = 0; i < 4; ++i) results.chunk.y[p][filter + t + i] = static_cast<u8>(y[i]);
      }
    }
    return t;
  }
};

}  // namespace

const Kernels kernels_neon = make_kernels<Neon>();

}  // namespace mulfree::nodes

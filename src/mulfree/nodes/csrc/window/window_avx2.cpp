// Integer kernels for AVX2: vpsadbw, and dot products of 16-bit pairs (never vpmaddubsw, which
// saturates).
#include <immintrin.h>

#include "tiles.h"

namespace mulfree::nodes {
namespace {

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

struct Avx2 {
  struct Adder : NoExtras {
    static constexpr const char* kName = "sad avx2";
    static constexpr i64 kLanes = 4, kGroup = 8, kStepBytes = 32;
    // 12 sums + 2 weights + 1 pixel + temporary of 16 registers.
    static constexpr int kBlocks = 2, kSums = 12;
    static constexpr bool kMasksTail = true;
    using Sum = __m256i;
    using X = __m256i;
    using W = __m256i;
    static Sum zero() { return _mm256_setzero_si256(); }
    static X broadcast(const u8* x) {
      i64 bytes;
      __builtin_memcpy(&bytes, x, sizeof bytes);
      return _mm256_set1_epi64x(bytes);
    }
    static X broadcast_first(const u8* x, i64 n) {
      return _mm256_and_si256(broadcast(x), _mm256_set1_epi64x((i64{1} << (8 * n)) - 1));
    }
    static W load(const u8* weights) { return load256(weights); }
    static Sum tap(Sum sum, X x, W w) { return _mm256_add_epi32(sum, _mm256_sad_epu8(x, w)); }
    static void place(u8* step, i64 lane, i64 j, int weight) {
      step[lane * kGroup + j] = static_cast<u8>(weight);
    }
    static void store(i32* sums, Sum sum, Extra, const i32*) {
      const __m256i negative = _mm256_sub_epi64(_mm256_setzero_si256(), sum);
      const __m256i words =
          _mm256_permutevar8x32_epi32(negative, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), _mm256_castsi256_si128(words));
    }
  };

  using NarrowAdder = Adder;
  static constexpr i64 kNarrow = 0;

  struct Conv : NoExtras {
    static constexpr const char* kName = "dot avx2";
    static constexpr i64 kLanes = 8, kGroup = 4, kStepBytes = 64;
    // 8 sums + 2 weights of two vectors + 2 pixels + 2 temporaries of 16 registers.
    static constexpr int kBlocks = 2, kSums = 8;
    static constexpr bool kMasksTail = false;
    using Sum = __m256i;
    // Bytes 0 and 2 of a group, and bytes 1 and 3, as 16-bit pairs.
    struct X {
      __m256i even, odd;
    };
    using W = X;
    static Sum zero() { return _mm256_setzero_si256(); }
    static X broadcast(const u8* x) {
      i32 bytes;
      __builtin_memcpy(&bytes, x, sizeof bytes);
      const __m256i all = _mm256_set1_epi32(bytes);
      return {_mm256_and_si256(all, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(all, 8)};
    }
    static X broadcast_first(const u8* x, i64) { return broadcast(x); }
    static W load(const u8* weights) { return {load256(weights), load256(weights + 32)}; }
    static Sum tap(Sum sum, const X& x, const W& w) {
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x.even, w.even));
      return _mm256_add_epi32(sum, _mm256_madd_epi16(x.odd, w.odd));
    }
    static void place(u8* step, i64 lane, i64 j, int weight) {
      const auto wide = static_cast<std::int16_t>(weight);
      __builtin_memcpy(step + (j % 2) * 32 + lane * 4 + (j / 2) * 2, &wide, sizeof wide);
    }
    static void store(i32* sums, Sum sum, Extra, const i32*) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), sum);
    }
  };

  // Four filters at a time. |v| < 2^62, so v + 2^62 is positive and shifts as an unsigned number.
  template <bool kResidual>
  static i64 requantise(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
    const __m128i shift = _mm_cvtsi32_si128(e.shift);
    constexpr i64 kLift = i64{1} << 62;
    const __m256i low = _mm256_set1_epi64x((kLift >> e.shift) + e.low);
    const __m256i high = _mm256_set1_epi64x((kLift >> e.shift) + e.high);
    const __m256i lifted = _mm256_set1_epi64x(kLift >> e.shift);
    const __m256i factor = _mm256_set1_epi64x(e.residual_multiplier);
    const auto widen = [](const i32* p) {
      return _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    };
    // The lowest byte of each 64-bit lane to the front of its half.
    const __m256i lowest = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    i64 t = 0;
    for (; t + 4 <= filters; t += 4) {
      const __m256i multiplier = widen(e.multiplier + filter + t);
      const __m256i offset =
          _mm256_add_epi64(load256(e.offset + filter + t), _mm256_set1_epi64x(kLift));
      for (i64 p = 0; p < results.pixels; ++p) {
        __m256i v = _mm256_mul_epi32(widen(results.sums + p * results.pitch + t), multiplier);
        v = _mm256_add_epi64(v, offset);
        if constexpr (kResidual) {
          i32 bytes;
          __builtin_memcpy(&bytes, results.residual[p] + t, sizeof bytes);
          const __m256i residual = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
          v = _mm256_add_epi64(v, _mm256_mul_epi32(residual, factor));
        }
        v = _mm256_srl_epi64(v, shift);
        v = _mm256_blendv_epi8(v, low, _mm256_cmpgt_epi64(low, v));
        v = _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
        v = _mm256_shuffle_epi8(_mm256_sub_epi64(v, lifted), lowest);
        const i32 bytes = _mm_cvtsi128_si32(
            _mm_unpacklo_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
        __builtin_memcpy(results.y[p] + t, &bytes, sizeof bytes);
      }
    }
    return t;
  }
};

}  // namespace

const Kernels kernels_avx2 = make_kernels<Avx2>();

}  // namespace mulfree::nodes

// Parts of the AVX-512 kernels with and without VNNI: vpsadbw and the epilogue.
#pragma once

// GCC's own headers initialise unused operands with themselves (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "depthwise_x86.h"
#include "kernel_set.h"

namespace mulfree::nodes {
namespace {

// Eight bytes of a pixel meet 8 filters.
struct SadTap : NoExtras {
  static constexpr const char* kName = "sad avx512";
  static constexpr i64 kLanes = 8, kGroup = 8, kStepBytes = 64;
  // 24 sums + 4 weights + 1 pixel + temporaries of 32 registers.
  static constexpr int kBlocks = 4, kSums = 24;
  static constexpr bool kMasksTail = true;
  using Sum = __m512i;
  using X = __m512i;
  using W = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static X broadcast(const u8* x) {
    i64 bytes;
    __builtin_memcpy(&bytes, x, sizeof bytes);
    return _mm512_set1_epi64(bytes);
  }
  static X broadcast_first(const u8* x, i64 n) {
    return _mm512_maskz_mov_epi8(0x0101010101010101u * ((1u << n) - 1), broadcast(x));
  }
  static W load(const u8* weights) { return _mm512_load_si512(weights); }
  static Sum tap(Sum sum, X x, W w) { return _mm512_add_epi32(sum, _mm512_sad_epu8(x, w)); }
  static void place(u8* step, i64 lane, i64 j, int weight) {
    step[lane * kGroup + j] = static_cast<u8>(weight);
  }
  static void store(i32* sums, Sum sum, Extra, const i32*) {
    const __m512i negative = _mm512_sub_epi64(_mm512_setzero_si512(), sum);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums), _mm512_cvtepi64_epi32(negative));
  }
};

// Vectors of depthwise kernels.
struct Zmm {
  using Vector = __m512i;
  static constexpr i64 kBytes = 64;
  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const u8* p) { return _mm512_loadu_si512(p); }
  static void store(i32* sums, Vector v) {
    const auto part = [&](i64 lane, __m128i four) {
      _mm_store_si128(reinterpret_cast<__m128i*>(sums + 16 * lane), four);
    };
    part(0, _mm512_castsi512_si128(v));
    part(1, _mm512_extracti32x4_epi32(v, 1));
    part(2, _mm512_extracti32x4_epi32(v, 2));
    part(3, _mm512_extracti32x4_epi32(v, 3));
  }
  static Vector max8(Vector a, Vector b) { return _mm512_max_epu8(a, b); }
  static Vector min8(Vector a, Vector b) { return _mm512_min_epu8(a, b); }
  static Vector sub8(Vector a, Vector b) { return _mm512_sub_epi8(a, b); }
  static Vector add16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
  static Vector sub16(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
  static Vector sub32(Vector a, Vector b) { return _mm512_sub_epi32(a, b); }
  static Vector lower8(Vector a) { return _mm512_and_si512(a, _mm512_set1_epi16(0xff)); }
  static Vector upper8(Vector a) { return _mm512_srli_epi16(a, 8); }
  static Vector raised8(Vector a) { return _mm512_slli_epi16(a, 8); }
  static Vector low16(Vector a, Vector b) { return _mm512_unpacklo_epi16(a, b); }
  static Vector high16(Vector a, Vector b) { return _mm512_unpackhi_epi16(a, b); }
  static Vector low32(Vector a, Vector b) { return _mm512_unpacklo_epi32(a, b); }
  static Vector high32(Vector a, Vector b) { return _mm512_unpackhi_epi32(a, b); }
  static Vector dot(Vector sum, Vector a, Vector b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
  }
};

// The odd 32-bit lanes moved to the even ones, the operands of products.
inline __m512i odd(__m512i a) { return _mm512_srli_epi64(a, 32); }

// The epilogue of 16 filters at a time, in 64 bits for the even and the odd ones; returns the
// number of filters done. For shifts of 32 and more the upper halves of |v| < 2^62 suffice.
template <bool kResidual>
i64 requantise_avx512(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
  const bool upper = e.shift >= 32;
  const __m128i shift = _mm_cvtsi32_si128(upper ? e.shift - 32 : e.shift);
  const __m512i low = _mm512_set1_epi32(e.low), high = _mm512_set1_epi32(e.high);
  const __m512i low64 = _mm512_set1_epi64(e.low), high64 = _mm512_set1_epi64(e.high);
  const __m512i factor = _mm512_set1_epi64(e.residual_multiplier);
  const __m512i evens = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i odds = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
  i64 t = 0;
  for (; t + 16 <= filters; t += 16) {
    const __m512i m = _mm512_loadu_si512(e.multiplier + filter + t);
    const __m512i m1 = odd(m);
    const __m512i front = _mm512_loadu_si512(e.offset + filter + t);
    const __m512i back = _mm512_loadu_si512(e.offset + filter + t + 8);
    const __m512i offset0 = _mm512_permutex2var_epi64(front, evens, back);
    const __m512i offset1 = _mm512_permutex2var_epi64(front, odds, back);
    for (i64 p = 0; p < results.chunk.pixels; ++p) {
      const __m512i sums = _mm512_loadu_si512(results.sums + p * results.pitch + t);
      __m512i v0 = _mm512_add_epi64(_mm512_mul_epi32(sums, m), offset0);
      __m512i v1 = _mm512_add_epi64(_mm512_mul_epi32(odd(sums), m1), offset1);
      if constexpr (kResidual) {
        const auto* const bytes =
            reinterpret_cast<const __m128i*>(results.chunk.residual[p] + filter + t);
        const __m512i residual = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes));
        v0 = _mm512_add_epi64(v0, _mm512_mul_epi32(residual, factor));
        v1 = _mm512_add_epi64(v1, _mm512_mul_epi32(odd(residual), factor));
      }
      __m512i y;
      if (upper) {
        y = _mm512_sra_epi32(_mm512_mask_shuffle_epi32(v1, 0x5555, v0, _MM_PERM_DDBB), shift);
        y = _mm512_max_epi32(low, _mm512_min_epi32(high, y));
      } else {
        v0 = _mm512_max_epi64(low64, _mm512_min_epi64(high64, _mm512_sra_epi64(v0, shift)));
        v1 = _mm512_max_epi64(low64, _mm512_min_epi64(high64, _mm512_sra_epi64(v1, shift)));
        y = _mm512_or_si512(v0, _mm512_slli_epi64(v1, 32));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(results.chunk.y[p] + filter + t),
                       _mm512_cvtepi32_epi8(y));
    }
  }
  return t;
}

}  // namespace
}  // namespace mulfree::nodes

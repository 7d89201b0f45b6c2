// Integer kernels for AVX2: vpsadbw, and dot products of 16-bit pairs (never vpmaddubsw, which
// saturates).
#include <immintrin.h>

#include "depthwise_x86.h"
#include "kernel_set.h"

namespace mulfree::nodes {
namespace {

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// Vectors of depthwise kernels.
struct Ymm {
  using Vector = __m256i;
  static constexpr i64 kBytes = 32;
  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const u8* p) { return load256(p); }
  static void store(i32* sums, Vector v) {
    const auto part = [&](i64 lane, __m128i four) {
      _mm_store_si128(reinterpret_cast<__m128i*>(sums + 16 * lane), four);
    };
    part(0, _mm256_castsi256_si128(v));
    part(1, _mm256_extracti128_si256(v, 1));
  }
  static Vector max8(Vector a, Vector b) { return _mm256_max_epu8(a, b); }
  static Vector min8(Vector a, Vector b) { return _mm256_min_epu8(a, b); }
  static Vector sub8(Vector a, Vector b) { return _mm256_sub_epi8(a, b); }
  static Vector add16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  static Vector sub16(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
  static Vector sub32(Vector a, Vector b) { return _mm256_sub_epi32(a, b); }
  static Vector lower8(Vector a) { return _mm256_and_si256(a, _mm256_set1_epi16(0xff)); }
  static Vector upper8(Vector a) { return _mm256_srli_epi16(a, 8); }
  static Vector raised8(Vector a) { return _mm256_slli_epi16(a, 8); }
  static Vector low16(Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }
  static Vector high16(Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }
  static Vector low32(Vector a, Vector b) { return _mm256_unpacklo_epi32(a, b); }
  static Vector high32(Vector a, Vector b) { return _mm256_unpackhi_epi32(a, b); }
  static Vector dot(Vector sum, Vector a, Vector b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
};

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

  // Pairs of numbers that are widened once for all filters, and weights once for all pixels.
  template <class Weight>
  struct PairTap : NoExtras {
    static constexpr const char* kName = "dot avx2";
    static constexpr i64 kLanes = 8, kGroup = 4, kStepBytes = 16 * sizeof(Weight);
    // The loads of a step are as many as its ports take; the weights are streamed in order.
    static constexpr bool kPrefetches = false;
    // 12 sums + 2 weights + 1 pixel + temporary of 16 registers.
    static constexpr int kBlocks = 2, kSums = 12;
    static constexpr bool kMasksTail = false;
    using Sum = __m256i;
    using X = __m256i;
    using W = __m256i;
    static Sum zero() { return _mm256_setzero_si256(); }
    static X broadcast(const u8* x) {
      i32 pair;
      __builtin_memcpy(&pair, x, sizeof pair);
      return _mm256_set1_epi32(pair);
    }
    static X broadcast_first(const u8* x, i64) { return broadcast(x); }
    static W load(const u8* weights) {
      if constexpr (sizeof(Weight) == 2) return load256(weights);
      return _mm256_cvtepi8_epi16(load128(weights));
    }
    static Sum tap(Sum sum, X x, W w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }
    static void store(i32* sums, Sum sum, Extra, const i32*) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), sum);
    }
  };
  struct ShortConv : PairTap<i8> {
    using Wide = PairTap<std::int16_t>;
    static void place(u8* step, i64 lane, i64 j, int weight) {
      step[lane * 2 + j] = static_cast<u8>(weight);
    }
    static void widen(std::uint16_t* to, const u8* from, i64 count, i64 ahead) {
      for (i64 i = 0; i < count; i += 16) {
        if (i % 64 == 0) __builtin_prefetch(from + i + ahead, 0, 3);
        store256(to + i, _mm256_cvtepu8_epi16(load128(from + i)));
      }
    }
    static void widen_weights(std::int16_t* to, const u8* from, i64 count) {
      for (i64 i = 0; i < count; i += 16) {
        store256(to + i, _mm256_cvtepi8_epi16(load128(from + i)));
      }
    }
  };

  using DepthwiseAdder = VectorDepthwiseAdder<Ymm>;
  using DepthwiseConv = VectorDepthwiseConv<Ymm>;

  // Any shift: four filters at a time. |v| < 2^62, so v + 2^62 is positive and shifts as an
  // unsigned number.
  template <bool kResidual>
  static i64 requantise_any(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
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
      for (i64 p = 0; p < results.chunk.pixels; ++p) {
        __m256i v = _mm256_mul_epi32(widen(results.sums + p * results.pitch + t), multiplier);
        v = _mm256_add_epi64(v, offset);
        if constexpr (kResidual) {
          i32 bytes;
          __builtin_memcpy(&bytes, results.chunk.residual[p] + filter + t, sizeof bytes);
          const __m256i residual = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
          v = _mm256_add_epi64(v, _mm256_mul_epi32(residual, factor));
        }
        v = _mm256_srl_epi64(v, shift);
        v = _mm256_blendv_epi8(v, low, _mm256_cmpgt_epi64(low, v));
        v = _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
        v = _mm256_shuffle_epi8(_mm256_sub_epi64(v, lifted), lowest);
        const i32 bytes = _mm_cvtsi128_si32(
            _mm_unpacklo_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
        __builtin_memcpy(results.chunk.y[p] + filter + t, &bytes, sizeof bytes);
      }
    }
    return t;
  }

  // The epilogue of 8 filters before the clamp, for shifts of 31 and more: products of the even and
  // of the odd sums, of whose |v| < 2^62 (doubled for 31) the upper halves suffice.
  template <bool kResidual, bool kDouble>
  struct Upper {
    __m256i even_multiplier, odd_multiplier, even_offset, odd_offset, factor;
    __m128i shift;
    Upper(const Epilogue& e, i64 filter) {
      even_multiplier = load256(e.multiplier + filter);
      odd_multiplier = _mm256_srli_epi64(even_multiplier, 32);
      const __m256i front = load256(e.offset + filter), back = load256(e.offset + filter + 4);
      even_offset = _mm256_permute4x64_epi64(_mm256_unpacklo_epi64(front, back), 0xd8);
      odd_offset = _mm256_permute4x64_epi64(_mm256_unpackhi_epi64(front, back), 0xd8);
      factor = _mm256_set1_epi64x(e.residual_multiplier);
      shift = _mm_cvtsi32_si128(kDouble ? 0 : e.shift - 32);
    }
    __m256i operator()(const i32* sums, const u8* residual) const {
      const __m256i s = load256(sums);
      __m256i even = _mm256_mul_epi32(s, even_multiplier);
      // Loaded, not shifted: loads have ports of their own.
      __m256i odd = _mm256_mul_epi32(load256(sums + 1), odd_multiplier);
      even = _mm256_add_epi64(even, even_offset);
      odd = _mm256_add_epi64(odd, odd_offset);
      if constexpr (kResidual) {
        const __m256i r =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(residual)));
        even = _mm256_add_epi64(even, _mm256_mul_epi32(r, factor));
        odd = _mm256_add_epi64(odd, _mm256_mul_epi32(_mm256_srli_epi64(r, 32), factor));
      }
      if constexpr (kDouble) {
        even = _mm256_add_epi64(even, even);
        odd = _mm256_add_epi64(odd, odd);
      }
      const __m256i upper = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
      return kDouble ? upper : _mm256_sra_epi32(upper, shift);
    }
  };

  // Sums are saturated to bytes before the clamp.
  template <bool kResidual, bool kDouble>
  static i64 requantise_upper(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
    // Local: a byte that is written may alias any other number.
    const i64 pixels = results.chunk.pixels, pitch = results.pitch;
    const __m256i low = _mm256_set1_epi8(static_cast<char>(e.low));
    const __m256i high = _mm256_set1_epi8(static_cast<char>(e.high));
    // Bytes of four vectors: 16 of the first two, then 16 of the others.
    const auto bytes = [&](__m256i a, __m256i b, __m256i c, __m256i d) {
      const __m256i words = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
      const __m256i made =
          _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
      return _mm256_max_epu8(low, _mm256_min_epu8(high, made));
    };
    const auto residual = [&](i64 p, i64 t) {
      return kResidual ? results.chunk.residual[p] + filter + t : nullptr;
    };
    const auto to = [&](i64 p, i64 t) {
      return reinterpret_cast<__m128i*>(results.chunk.y[p] + filter + t);
    };
    i64 t = 0;
    for (; t + 16 <= filters; t += 16) {
      const Upper<kResidual, kDouble> front(e, filter + t), back(e, filter + t + 8);
      const i32* sums = results.sums + t;
      i64 p = 0;
      for (; p + 2 <= pixels; p += 2, sums += 2 * pitch) {
        const __m256i a = front(sums, residual(p, t)), b = back(sums + 8, residual(p, t + 8));
        const __m256i c = front(sums + pitch, residual(p + 1, t));
        const __m256i d = back(sums + pitch + 8, residual(p + 1, t + 8));
        const __m256i all = bytes(a, b, c, d);
        _mm_storeu_si128(to(p, t), _mm256_castsi256_si128(all));
        _mm_storeu_si128(to(p + 1, t), _mm256_extracti128_si256(all, 1));
      }
      if (p < pixels) {
        const __m256i a = front(sums, residual(p, t)), b = back(sums + 8, residual(p, t + 8));
        _mm_storeu_si128(to(p, t), _mm256_castsi256_si128(bytes(a, b, a, b)));
      }
    }
    for (; t + 8 <= filters; t += 8) {
      const Upper<kResidual, kDouble> all(e, filter + t);
      for (i64 p = 0; p < pixels; ++p) {
        const __m256i v = all(results.sums + p * pitch + t, residual(p, t));
        _mm_storel_epi64(to(p, t), _mm256_castsi256_si128(bytes(v, v, v, v)));
      }
    }
    return t;
  }

  // Number of filters done; the caller does the rest.
  template <bool kResidual>
  static i64 requantise(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
    if (e.shift < 31) return requantise_any<kResidual>(e, filter, filters, results);
    return e.shift == 31 ? requantise_upper<kResidual, true>(e, filter, filters, results)
                         : requantise_upper<kResidual, false>(e, filter, filters, results);
  }
};

}  // namespace

const Kernels kernels_avx2 = make_kernels<Avx2>();

}  // namespace mulfree::nodes

// Integer kernels for AVX-512 with VNNI: four bytes of a pixel meet 16 filters an instruction.
#include "avx512.h"

namespace mulfree::nodes {
namespace {

struct VnniTap {
  static constexpr i64 kLanes = 16, kGroup = 4, kStepBytes = 64;
  // 24 sums + 4 weights + 1 pixel + temporaries of 32 registers.
  static constexpr int kBlocks = 4, kSums = 24;
  static constexpr bool kMasksTail = false;
  using Sum = __m512i;
  using X = __m512i;
  using W = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static X broadcast(const u8* x) {
    i32 bytes;
    __builtin_memcpy(&bytes, x, sizeof bytes);
    return _mm512_set1_epi32(bytes);
  }
  static X broadcast_first(const u8* x, i64) { return broadcast(x); }
  static W load(const u8* weights) { return _mm512_load_si512(weights); }
  static void place(u8* step, i64 lane, i64 j, int weight) {
    step[lane * kGroup + j] = static_cast<u8>(weight);
  }
};

struct Avx512Vnni {
  // With few filters the sums of pixels cost more than the saved instruction.
  using NarrowAdder = SadTap;
  static constexpr i64 kNarrow = 32;

  // sum |x - w| = sum x + sum w - 2 sum min(x, w): the byte minimum has ports of its own, and the
  // dot product with ones adds up in the same instruction. Sums wrap modulo 2^32 on the way.
  struct Adder : VnniTap {
    static constexpr const char* kName = "sad avx512vnni";
    static constexpr bool kPrefetches = true;
    // The sum of x over the window, in all lanes.
    using Extra = __m512i;
    template <int kPixels>
    static void extras(const KernelLayer& layer, const u8* const* windows, Extra* sums) {
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) sums[p] = _mm512_setzero_si512();
      for (i64 run = 0; run < layer.runs; ++run) {
        const i64 end = layer.run_offsets[run] + layer.run_bytes;
        for (i64 i = layer.run_offsets[run]; i < end; i += 64) {
          const __mmask64 mask = end - i < 64 ? (1ull << (end - i)) - 1 : ~0ull;
#pragma GCC unroll 8
          for (int p = 0; p < kPixels; ++p) {
            const __m512i x = _mm512_maskz_loadu_epi8(mask, windows[p] + i);
            sums[p] = _mm512_dpbusd_epi32(sums[p], x, _mm512_set1_epi8(1));
          }
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        __m512i sum = sums[p];
        sum = _mm512_add_epi32(sum, _mm512_shuffle_i64x2(sum, sum, 0x4e));
        sum = _mm512_add_epi32(sum, _mm512_shuffle_i64x2(sum, sum, 0xb1));
        sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_BADC));
        sums[p] = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_CDAB));
      }
    }
    static Sum tap(Sum sum, X x, W w) {
      return _mm512_dpbusd_epi32(sum, _mm512_min_epu8(x, w), _mm512_set1_epi8(1));
    }
    static void store(i32* sums, Sum sum, Extra pixel_sum, const i32* bias) {
      const __m512i rest = _mm512_sub_epi32(_mm512_load_si512(bias), pixel_sum);
      _mm512_store_si512(sums, _mm512_add_epi32(_mm512_add_epi32(sum, sum), rest));
    }
  };
  struct Conv : VnniTap, NoExtras {
    static constexpr const char* kName = "dot avx512vnni";
    static Sum tap(Sum sum, X x, W w) { return _mm512_dpbusd_epi32(sum, x, w); }
    static void store(i32* sums, Sum sum, Extra, const i32*) { _mm512_store_si512(sums, sum); }
  };

  struct ZmmVnni : Zmm {
    static Vector dot(Vector sum, Vector a, Vector b) { return _mm512_dpwssd_epi32(sum, a, b); }
  };
  using ShortConv = Conv;
  using DepthwiseAdder = VectorDepthwiseAdder<Zmm>;
  using DepthwiseConv = VectorDepthwiseConv<ZmmVnni>;

  template <bool kResidual>
  static i64 requantise(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
    return requantise_avx512<kResidual>(e, filter, filters, results);
  }
};

}  // namespace

const Kernels kernels_avx512vnni = make_kernels<Avx512Vnni>();

}  // namespace mulfree::nodes

// Integer kernels for AVX-512 without VNNI: vpsadbw, and dot products of 16-bit pairs.
#include "avx512.h"

namespace mulfree::nodes {
namespace {

struct Avx512 {
  using Adder = SadTap;
  using NarrowAdder = Adder;
  static constexpr i64 kNarrow = 0;

  struct Conv : NoExtras {
    static constexpr const char* kName = "dot avx512";
    static constexpr i64 kLanes = 16, kGroup = 4, kStepBytes = 128;
    // 16 sums + 4 weights of two vectors + 2 pixels + temporaries of 32 registers.
    static constexpr int kBlocks = 4, kSums = 16;
    static constexpr bool kMasksTail = false;
    using Sum = __m512i;
    // Bytes 0 and 2 of a group, and bytes 1 and 3, as 16-bit pairs.
    struct X {
      __m512i even, odd;
    };
    using W = X;
    static Sum zero() { return _mm512_setzero_si512(); }
    static X broadcast(const u8* x) {
      i32 bytes;
      __builtin_memcpy(&bytes, x, sizeof bytes);
      const __m512i all = _mm512_set1_epi32(bytes);
      return {_mm512_and_si512(all, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(all, 8)};
    }
    static X broadcast_first(const u8* x, i64) { return broadcast(x); }
    static W load(const u8* weights) {
      return {_mm512_load_si512(weights), _mm512_load_si512(weights + 64)};
    }
    static Sum tap(Sum sum, const X& x, const W& w) {
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x.even, w.even));
      return _mm512_add_epi32(sum, _mm512_madd_epi16(x.odd, w.odd));
    }
    static void place(u8* step, i64 lane, i64 j, int weight) {
      const auto wide = static_cast<std::int16_t>(weight);
      __builtin_memcpy(step + (j % 2) * 64 + lane * 4 + (j / 2) * 2, &wide, sizeof wide);
    }
    static void store(i32* sums, Sum sum, Extra, const i32*) { _mm512_store_si512(sums, sum); }
  };

  using ShortConv = Conv;
  using DepthwiseAdder = VectorDepthwiseAdder<Zmm>;
  using DepthwiseConv = VectorDepthwiseConv<Zmm>;

  template <bool kResidual>
  static i64 requantise(const Epilogue& e, i64 filter, i64 filters, const Results& results) {
    return requantise_avx512<kResidual>(e, filter, filters, results);
  }
};

}  // namespace

const Kernels kernels_avx512 = make_kernels<Avx512>();

}  // namespace mulfree::nodes

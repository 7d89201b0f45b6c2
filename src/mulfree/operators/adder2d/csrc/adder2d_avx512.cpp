// adder2d for AVX-512 (F, DQ, BW, VL), float32.
#ifdef __GNUC__
// GCC 12's intrinsics pass an undefined register on purpose and then warn (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include "kernels.h"

namespace mulfree::adder2d {
namespace {

struct Avx512 {
  using T = float;
  using R = __m512;
  static constexpr i64 kLanes = 16;
  static constexpr T kLargest = 3.402823466e38f;
  static constexpr T kBig = 0x1p100f;
  // 24 accumulators + 3 pixels + weight + temporary + 2 constants of 32 registers. 24 additions
  // in flight cover their latency; 8 broadcasts and 3 loads serve 24 taps.
  static constexpr int kForwardRows = 8, kForwardVecs = 3;
  // 12 accumulators + 12 inputs + 3 gradients + weight + temporary + constant.
  static constexpr int kGradRows = 4, kGradVecs = 3;
  // Difference, range, multiply-add: with every other difference on the multiply-add ports the
  // two pairs of ports of Zen 5 carry 1.5 instructions each.
  static constexpr int kGradDifferencesOnFma = 1;
  // 24 accumulators + 4 gradients + input.
  static constexpr int kDotTaps = 6, kDotFilters = 4;
  static constexpr int kDirectVecs = 8, kDirectGradVecs = 8;
  static constexpr bool kIntegerMax = true;
  static constexpr bool kClampOneFinite = true;

  static __mmask16 first(i64 n) {
    return n >= kLanes ? __mmask16(0xffff) : __mmask16((1u << n) - 1);
  }
  static R zero() { return _mm512_setzero_ps(); }
  static R set1(T v) { return _mm512_set1_ps(v); }
  static R load(const T* p) { return _mm512_loadu_ps(p); }
  static R load_first(const T* p, i64 n) { return _mm512_maskz_loadu_ps(first(n), p); }
  // p[0], p[2], ... for the first n lanes; reads no more than these need.
  static R load_even(const T* p, i64 n) {
    const i64 reach = 2 * min_i64(n, kLanes) - 1;
    const R low = load_first(p, reach);
    const R high = reach > kLanes ? load_first(p + kLanes, reach - kLanes) : zero();
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(low, even, high);
  }
  // Writes the first n lanes to p[0], p[2], ... and nothing else.
  static void store_even(T* p, i64 n, R v) {
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const i64 half = kLanes / 2;
    _mm512_mask_storeu_ps(p, 0x5555 & first(2 * n), _mm512_permutexvar_ps(low, v));
    if (n <= half) return;
    _mm512_mask_storeu_ps(p + kLanes, 0x5555 & first(2 * (n - half)),
                          _mm512_permutexvar_ps(high, v));
  }
  struct Two {
    R first, second;
  };
  // Even and odd values of a and b, one after the other.
  static Two split(R a, R b) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    return {_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)};
  }
  // a[0], b[0], a[1], b[1], ...
  static Two merge(R a, R b) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    return {_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)};
  }
  static void store(T* p, R v) { _mm512_storeu_ps(p, v); }
  static void store_first(T* p, i64 n, R v) { _mm512_mask_storeu_ps(p, first(n), v); }
  static R add(R a, R b) { return _mm512_add_ps(a, b); }
  static R sub(R a, R b) { return _mm512_sub_ps(a, b); }
  static R mul(R a, R b) { return _mm512_mul_ps(a, b); }
  static R max(R a, R b) { return _mm512_max_ps(a, b); }
  static R fma(R a, R b, R c) { return _mm512_fmadd_ps(a, b, c); }
  static R abs(R a) { return _mm512_abs_ps(a); }
  static R negate(R a) { return _mm512_xor_ps(a, set1(-0.0f)); }
  // Ones that the compiler does not see through.
  static R ones() {
    R v = set1(1.0f);
    asm("" : "+v"(v));
    return v;
  }
  // a - b as a * 1 - b, which is the same number. Where additions and multiply-adds have ports
  // of their own (Zen 4, 5) this leaves the addition ports to the sums: 77 instead of 65 Gtap/s
  // a core on Zen 5. Where they share ports nothing changes.
  static R subtract_on_fma(R a, R b, R ones) { return _mm512_fmsub_ps(a, ones, b); }
  // vpmaxsd runs on the integer ports: max + add reaches the rate of multiply-add on Zen 5.
  static R integer_max(R a, R b) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  // Second operand when unordered: a NaN in `t` stays.
  static R clamp_one(R t) { return _mm512_max_ps(set1(-1.0f), _mm512_min_ps(set1(1.0f), t)); }
  // vrangeps: the smaller magnitude with the sign of t. It would drop a NaN.
  static R clamp_one_finite(R t, R ones) { return _mm512_range_ps(t, ones, 2); }
  static bool all_non_negative(R v) {
    return _mm512_cmple_epu32_mask(_mm512_castps_si512(v), _mm512_set1_epi32(0x7f7fffff)) == 0xffff;
  }
  // a <= b everywhere, and b finite.
  static bool all_at_most(R a, R b) {
    return (_mm512_cmp_ps_mask(a, b, _CMP_LE_OQ) &
            _mm512_cmp_ps_mask(b, set1(kLargest), _CMP_LE_OQ)) == 0xffff;
  }
  static bool all_zero(R v) { return _mm512_cmp_ps_mask(v, zero(), _CMP_EQ_OQ) == 0xffff; }
  static bool is_finite(T v) { return v - v == 0; }
  // sums[j] += sum over the lanes of v[j].
  static void add_sums4(const R* v, T* sums) {
    const R ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const R cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const R quads = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
    const __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), sum));
  }
};

}  // namespace

const Kernels<float> kernels_avx512 = make_kernels<Avx512>();

}  // namespace mulfree::adder2d

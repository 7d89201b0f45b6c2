// adder2d for AVX2 and FMA, float32.
#include <immintrin.h>

#include "kernels.h"

namespace mulfree::adder2d {
namespace {

struct Avx2 {
  using T = float;
  using R = __m256;
  static constexpr i64 kLanes = 8;
  static constexpr T kLargest = 3.402823466e38f;
  static constexpr T kBig = 0x1p100f;
  // 12 accumulators + 2 pixels + weight + temporary of 16 registers; constants from memory.
  static constexpr int kForwardRows = 6, kForwardVecs = 2;
  // 8 accumulators + 2 gradients + weight + temporary + 2 constants; inputs from memory.
  static constexpr int kGradRows = 4, kGradVecs = 2;
  // Difference and multiply-add on one pair of ports, min and max on the other (Zen 5).
  static constexpr int kGradDifferencesOnFma = 2;
  // 12 accumulators + 3 taps + gradient.
  static constexpr int kDotTaps = 3, kDotFilters = 4;
  // Depthwise: 8 accumulators + weight + temporaries + 2 constants; 4 accumulators + 4 inputs + ...
  static constexpr int kDirectVecs = 8, kDirectGradVecs = 4;
  static constexpr bool kIntegerMax = true;
  static constexpr bool kClampOneFinite = false;

  static __m256i first(i64 n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(min_i64(n, kLanes))), lane);
  }
  static R zero() { return _mm256_setzero_ps(); }
  static R set1(T v) { return _mm256_set1_ps(v); }
  static R load(const T* p) { return _mm256_loadu_ps(p); }
  static R load_first(const T* p, i64 n) { return _mm256_maskload_ps(p, first(n)); }
  // p[0], p[2], ... for the first n lanes; reads no more than these need.
  static R load_even(const T* p, i64 n) {
    const i64 reach = 2 * min_i64(n, kLanes) - 1;
    const R low = load_first(p, reach);
    const R high = reach > kLanes ? load_first(p + kLanes, reach - kLanes) : zero();
    const __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xd8));
  }
  // Writes the first n lanes to p[0], p[2], ... and nothing else.
  static void store_even(T* p, i64 n, R v) {
    alignas(32) T lanes[kLanes];
    _mm256_store_ps(lanes, v);
    for (i64 i = 0; i < min_i64(n, kLanes); ++i) p[2 * i] = lanes[i];
  }
  struct Two {
    R first, second;
  };
  // Even and odd values of a and b, one after the other.
  static Two split(R a, R b) {
    const auto in_order = [](R v) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
    };
    return {in_order(_mm256_shuffle_ps(a, b, 0x88)), in_order(_mm256_shuffle_ps(a, b, 0xdd))};
  }
  // a[0], b[0], a[1], b[1], ...
  static Two merge(R a, R b) {
    const R low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
  }
  static void store(T* p, R v) { _mm256_storeu_ps(p, v); }
  static void store_first(T* p, i64 n, R v) {
    if (n >= kLanes) return store(p, v);
    _mm256_maskstore_ps(p, first(n), v);
  }
  static R add(R a, R b) { return _mm256_add_ps(a, b); }
  static R sub(R a, R b) { return _mm256_sub_ps(a, b); }
  static R mul(R a, R b) { return _mm256_mul_ps(a, b); }
  static R max(R a, R b) { return _mm256_max_ps(a, b); }
  static R fma(R a, R b, R c) { return _mm256_fmadd_ps(a, b, c); }
  static R abs(R a) { return _mm256_andnot_ps(set1(-0.0f), a); }
  static R negate(R a) { return _mm256_xor_ps(a, set1(-0.0f)); }
  // Ones that the compiler does not see through.
  static R ones() {
    R v = set1(1.0f);
    asm("" : "+x"(v));
    return v;
  }
  // a - b as a * 1 - b, the same number, on the multiply-add ports.
  static R subtract_on_fma(R a, R b, R ones) { return _mm256_fmsub_ps(a, ones, b); }
  static R integer_max(R a, R b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  // Second operand when unordered: a NaN in `t` stays.
  static R clamp_one(R t) { return _mm256_max_ps(set1(-1.0f), _mm256_min_ps(set1(1.0f), t)); }
  static bool all_non_negative(R v) {
    const R good = _mm256_and_ps(_mm256_cmp_ps(v, zero(), _CMP_GE_OQ),
                                 _mm256_cmp_ps(v, set1(kLargest), _CMP_LE_OQ));
    return _mm256_movemask_ps(good) == 0xff;
  }
  // a <= b everywhere, and b finite.
  static bool all_at_most(R a, R b) {
    const R good = _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_LE_OQ),
                                 _mm256_cmp_ps(b, set1(kLargest), _CMP_LE_OQ));
    return _mm256_movemask_ps(good) == 0xff;
  }
  static bool all_zero(R v) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v, zero(), _CMP_EQ_OQ)) == 0xff;
  }
  static bool is_finite(T v) { return v - v == 0; }
  // sums[j] += sum over the lanes of v[j].
  static void add_sums4(const R* v, T* sums) {
    const R pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const __m128 sum = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), sum));
  }
};

}  // namespace

const Kernels<float> kernels_avx2 = make_kernels<Avx2>();

}  // namespace mulfree::adder2d

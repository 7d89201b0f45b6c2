// adder2d for every machine: the compiler's 128-bit vectors, float32 and float64.
#include "kernels.h"

namespace mulfree::adder2d {
namespace {

template <class Float>
struct FloatTraits;

template <>
struct FloatTraits<float> {
  using Bits = std::int32_t;
  static constexpr float kLargest = 3.402823466e38f;
  static constexpr float kBig = 0x1p100f;
};

template <>
struct FloatTraits<double> {
  using Bits = std::int64_t;
  static constexpr double kLargest = 1.7976931348623157e308;
  static constexpr double kBig = 0x1p1000;
};

template <class Float>
struct Portable {
  using T = Float;
  typedef T R __attribute__((vector_size(16)));
  typedef typename FloatTraits<T>::Bits I __attribute__((vector_size(16)));
  static constexpr i64 kLanes = 16 / sizeof(T);
  static constexpr T kLargest = FloatTraits<T>::kLargest;
  static constexpr T kBig = FloatTraits<T>::kBig;
  // 8 accumulators + 2 pixels + weight + temporary of 16 registers (the SSE2 baseline).
  static constexpr int kForwardRows = 4, kForwardVecs = 2;
  static constexpr int kGradRows = 4, kGradVecs = 2;
  static constexpr int kGradDifferencesOnFma = 0;
  static constexpr int kDotTaps = 2, kDotFilters = 4;
  static constexpr int kDirectVecs = 8, kDirectGradVecs = 4;
  static constexpr bool kIntegerMax = false;
  static constexpr bool kClampOneFinite = false;

  static R zero() { return R{}; }
  static R set1(T v) { return v - R{}; }
  static R load(const T* p) {
    R v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static R load_first(const T* p, i64 n) {
    R v{};
    for (i64 i = 0; i < min_i64(n, kLanes); ++i) v[i] = p[i];
    return v;
  }
  static R load_even(const T* p, i64 n) {
    R v{};
    for (i64 i = 0; i < min_i64(n, kLanes); ++i) v[i] = p[2 * i];
    return v;
  }
  static void store_even(T* p, i64 n, R v) {
    for (i64 i = 0; i < min_i64(n, kLanes); ++i) p[2 * i] = v[i];
  }
  struct Two {
    R first, second;
  };
  // Even and odd values of a and b, one after the other.
  static Two split(R a, R b) {
    Two v;
    for (i64 i = 0; i < kLanes; ++i) {
      v.first[i] = 2 * i < kLanes ? a[2 * i] : b[2 * i - kLanes];
      v.second[i] = 2 * i < kLanes ? a[2 * i + 1] : b[2 * i + 1 - kLanes];
    }
    return v;
  }
  // a[0], b[0], a[1], b[1], ...
  static Two merge(R a, R b) {
    Two v;
    for (i64 i = 0; i < kLanes; ++i) {
      v.first[i] = i % 2 ? b[i / 2] : a[i / 2];
      v.second[i] = i % 2 ? b[(kLanes + i) / 2] : a[(kLanes + i) / 2];
    }
    return v;
  }
  static void store(T* p, R v) { __builtin_memcpy(p, &v, sizeof v); }
  static void store_first(T* p, i64 n, R v) {
    for (i64 i = 0; i < min_i64(n, kLanes); ++i) p[i] = v[i];
  }
  static R add(R a, R b) { return a + b; }
  static R sub(R a, R b) { return a - b; }
  static R mul(R a, R b) { return a * b; }
  static R fma(R a, R b, R c) { return a * b + c; }
  static R abs(R a) { return (R)((I)a & ~(I)set1(T(-0.0))); }
  static R negate(R a) { return -a; }
  static R ones() { return zero(); }
  static R subtract_on_fma(R a, R b, R) { return a - b; }
  // Comparisons are false for a NaN in `t`, which stays.
  static R clamp_one(R t) {
    t = set1(1) < t ? set1(1) : t;
    return set1(-1) > t ? set1(-1) : t;
  }
  static bool all_non_negative(R) { return false; }  // used by the integer kernel only
  static bool all_zero(R v) {
    bool good = true;
    for (i64 i = 0; i < kLanes; ++i) good &= v[i] == 0;
    return good;
  }
  static bool is_finite(T v) { return v - v == 0; }
  // sums[j] += sum over the lanes of v[j].
  static void add_sums4(const R* v, T* sums) {
    for (int j = 0; j < 4; ++j) {
      for (i64 i = 0; i < kLanes; ++i) sums[j] += v[j][i];
    }
  }
};

}  // namespace

const Kernels<float> kernels_scalar = make_kernels<Portable<float>>();
const Kernels<double> kernels_scalar_f64 = make_kernels<Portable<double>>();

}  // namespace mulfree::adder2d

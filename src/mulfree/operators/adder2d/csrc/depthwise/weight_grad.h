// Gradient of the weights of depthwise convolutions: dW = sum over windows of f(x - w) * g. Lanes
// are windows.
#pragma once

#include "../weight_grad.h"
#include "geometry.h"

namespace mulfree::adder2d {
namespace {

// sums[tap][lane] += f(x - w) * g over rows of vectors; and, unless null, g_sum[lane] += g. The
// vectors of x are adjacent, the vectors of g `g_step` values apart. x is less a centre already
// where the form is centred; weight as in `subtract_distances`.
template <class V, Difference kForm, bool kPerLane, int kTaps>
[[gnu::noinline]] void add_products(const typename V::T* x, i64 x_pitch, const i64* offsets,
                                    const typename V::T* weight, const typename V::T* g,
                                    i64 g_pitch, i64 g_step, i64 rows, i64 vectors,
                                    typename V::T* sums, typename V::T* g_sum) {
  typename V::R acc[kTaps], acc_g = V::zero();
#pragma GCC unroll 9
  for (int k = 0; k < kTaps; ++k) acc[k] = V::zero();
  for (i64 i = 0; i < rows; ++i, x += x_pitch, g += g_pitch) {
    for (i64 p = 0; p < vectors; ++p) {
      const auto gs = V::load(g + p * g_step);
      acc_g = V::add(acc_g, gs);
#pragma GCC unroll 9
      for (int k = 0; k < kTaps; ++k) {
        auto t = V::load(x + p * V::kLanes + offsets[k]);
        if constexpr (kForm == Difference::sign) {
          const auto w = kPerLane ? V::load(weight + k * V::kLanes) : V::set1(weight[k]);
          t = bounded<V, Rule::sign>(V::sub(t, w));
        }
        acc[k] = V::fma(t, gs, acc[k]);
      }
    }
  }
#pragma GCC unroll 9
  for (int k = 0; k < kTaps; ++k) {
    V::store(sums + k * V::kLanes, V::add(V::load(sums + k * V::kLanes), acc[k]));
  }
  if (g_sum != nullptr) V::store(g_sum, V::add(V::load(g_sum), acc_g));
}

// The gradient of one filter, difference by difference.
template <Rule kRule, class T>
void define_weight_grad(const Geometry& geo, const T* g, const T* x, const T* weight, i64 c,
                        T* out) {
  for (i64 k = 0; k < geo.kh * geo.kw; ++k) {
    const T w = weight[c * geo.kh * geo.kw + k];
    double sum = 0;
    for (i64 i = 0; i < geo.n * geo.ho * geo.wo; ++i) {
      const i64 plane = i / (geo.ho * geo.wo) * geo.c + c;
      const i64 row = i / geo.wo % geo.ho * geo.sh - geo.ph + k / geo.kw * geo.dh;
      const i64 col = i % geo.wo * geo.sw - geo.pw + k % geo.kw * geo.dw;
      const bool inside = row >= 0 && row < geo.h && col >= 0 && col < geo.w;
      T t = (inside ? x[(plane * geo.h + row) * geo.w + col] : T(0)) - w;
      if constexpr (kRule == Rule::sign) t = bounded_value<Rule::sign>(t);
      sum += static_cast<double>(t) * g[plane * geo.ho * geo.wo + i % (geo.ho * geo.wo)];
    }
    out[c * geo.kh * geo.kw + k] = static_cast<T>(sum);
  }
}

// By rule adder, sum (x - w) g = sum (x - c) g - (w - c) sum g with c the tap in the middle of
// the filter, for the reason in weight_grad.h. Filters whose result is not finite are formed again.
template <class V, Rule kRule>
void depthwise_weight_grad(const Geometry& geo, const typename V::T* g, const typename V::T* x,
                           const typename V::T* weight, typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes;
  constexpr Difference kForm = kRule == Rule::sign ? Difference::sign : Difference::centred;
  const FlatLayout layout = window_layout(geo);
  const i64 band = layout.band(geo.ho, L, sizeof(T)), taps = geo.kh * geo.kw;
  const i64 in_plane = geo.h * geo.w, out_plane = geo.ho * geo.wo;
  const bool direct = in_place<V>(geo.wo);
  struct Scratch {
    Flat<V> x;
    Buffer<T> g, sums;
    Buffer<i64> offsets;
  };
  const i64 share = ceil_div(planes_of_task(geo), geo.n), tasks = ceil_div(geo.c, share);
  const i64 rows_of_sums = round_up(taps + 1, 4), lanes_of_band = band * layout.pitch + 2 * L;
  const int team = static_cast<int>(min_i64(threads, tasks));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].x.reserve(layout, band, geo.ho);
    scratch[i].g.reset(lanes_of_band);
    scratch[i].sums.reset(rows_of_sums * (L + 1));
    scratch[i].offsets.reset(taps);
    window_offsets<V>(geo, scratch[i].x, scratch[i].offsets.data());
    for (i64 j = 0; j < lanes_of_band; ++j) scratch[i].g[j] = 0;
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    for (i64 c = task * share; c < min_i64(geo.c, (task + 1) * share); ++c) {
      const T* w = weight + c * taps;
      const T centre = kForm == Difference::centred ? w[taps / 2] : T(0);
      T *sums = own.sums.data(), *totals = sums + rows_of_sums * L;
      for (i64 i = 0; i < rows_of_sums * (L + 1); ++i) sums[i] = 0;
      own.x.clear(centre);
      for (i64 n = 0; n < geo.n; ++n) {
        const i64 plane = n * geo.c + c;
        for (i64 row = 0; row < geo.ho; row += band) {
          const i64 rows = min_i64(band, geo.ho - row);
          own.x.copy(x + plane * in_plane, row, row + rows, centre);
          const T* slopes = g + plane * out_plane + row * geo.wo;
          const i64 end = (rows - 1) * layout.pitch + geo.wo;
          for (i64 i = 0; i < (direct ? 0 : rows); ++i) {
            copy_values<sizeof(typename V::R)>(own.g.data() + i * layout.pitch, slopes + i * geo.wo,
                                               geo.wo, T(0));
          }
          V::store(own.g.data() + end, V::zero());
          const i64 flat_rows = direct ? rows : 1, vectors = ceil_div(direct ? geo.wo : end, L);
          for_even_tiles<9>(taps, [&](auto size, i64 k) {
            add_products<V, kForm, false, decltype(size)::value>(
                own.x.data(), layout.pitch, own.offsets.data() + k, w + k,
                direct ? slopes : own.g.data(), geo.wo, L, flat_rows, vectors, sums + k * L,
                k == 0 ? sums + taps * L : nullptr);
          });
        }
      }
      for (i64 k = 0; k < rows_of_sums; k += 4) {
        typename V::R quad[4];
        for (i64 i = 0; i < 4; ++i) quad[i] = V::load(sums + (k + i) * L);
        V::add_sums4(quad, totals + k);
      }
      bool finite = true;
      for (i64 k = 0; k < taps; ++k) {
        T& value = out[c * taps + k];
        value = totals[k];
        if (kForm == Difference::centred) value -= (w[k] - centre) * totals[taps];
        finite &= V::is_finite(value);
      }
      if (!finite) define_weight_grad<kRule>(geo, g, x, weight, c, out);
    }
  });
}

}  // namespace
}  // namespace mulfree::adder2d

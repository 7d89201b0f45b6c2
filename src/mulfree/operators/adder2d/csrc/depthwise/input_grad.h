// Gradient of the input of depthwise convolutions: dX = sum over taps of f(w - x) * g. Lanes are
// input pixels, all phases of the columns at once, and a pixel gathers what it receives: x and the
// sums stay in registers. For windows of stride 2 the columns of g are there twice, and
// neighbouring lanes meet different taps.
#pragma once

#include "../input_grad.h"
#include "geometry.h"

namespace mulfree::adder2d {
namespace {

// out[vector] = sum over taps of f(w - x) * g; weight [tap][lane] or, the same in all lanes, [tap].
// The vectors of g are adjacent, the vectors of x and out `step` values apart. Makes lanes of
// `poison` NaN where x is not finite.
template <class V, Rule kRule, Range kRange, bool kPerLane, int kVecs>
[[gnu::noinline]] void add_slopes(const typename V::T* g, const i64* offsets,
                                  const typename V::T* weight, i64 taps, const typename V::T* x,
                                  typename V::T* out, i64 step, typename V::T* poison) {
  typename V::R acc[kVecs], xs[kVecs], worst = V::load(poison);
  const auto ones = V::ones();
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) {
    acc[j] = V::zero(), xs[j] = V::load(x + j * step);
    worst = V::fma(xs[j], V::zero(), worst);
  }
  V::store(poison, worst);
  for (i64 k = 0; k < taps; ++k) {
    const typename V::T* src = g + offsets[k];
    const auto w = kPerLane ? V::load(weight + k * V::kLanes) : V::set1(weight[k]);
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      const auto gs = V::load(src + j * V::kLanes);
      const bool on_fma = j % 2 < V::kGradDifferencesOnFma;
      const auto t = on_fma ? V::subtract_on_fma(w, xs[j], ones) : V::sub(w, xs[j]);
      if constexpr (kRange == Range::finite) {
        acc[j] = V::fma(V::clamp_one_finite(t, ones), gs, acc[j]);
      } else {
        acc[j] = V::fma(bounded<V, kRule>(t), gs, acc[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) V::store(out + j * step, acc[j]);
}

// Taps of the pixels of a phase: `weight` as in `add_slopes`.
template <class T>
struct MetTaps {
  const i64* offsets;
  const T* weight;
  i64 count;
};

// `add_slopes` over adjacent vectors, for values that are finite: what it makes of others is only
// known to be wrong, as `poison` is NaN then.
template <class V, Rule kRule, bool kPerLane>
inline void add_row_of_slopes(const typename V::T* g, const MetTaps<typename V::T>& taps,
                              const typename V::T* x, typename V::T* out, i64 step, i64 vectors,
                              typename V::T* poison) {
  constexpr bool kFinite = kRule == Rule::adder && V::kClampOneFinite;
  for_even_tiles<V::kDirectGradVecs>(vectors, [&](auto size, i64 j) {
    add_slopes<V, kRule, kFinite ? Range::finite : Range::all, kPerLane, decltype(size)::value>(
        g + j * V::kLanes, taps.offsets, taps.weight, taps.count, x + j * step, out + j * step,
        step, poison);
  });
}

// Taps that the pixels of one phase of rows meet, in planes of `GradLayout`.
struct GradTaps {
  Buffer<i64> offset;
  Buffer<i64> weight[2];  // in even and in odd lanes; -1 for none
  i64 count = 0;

  template <class V>
  void find(const Geometry& geo, const GradLayout& layout, const Flat<V>& flat, i64 phase) {
    const i64 most = geo.kh * layout.reach;
    offset.reset(most), weight[0].reset(most), weight[1].reset(most);
    for (i64 u = 0; u < geo.kh; ++u) {
      if (!layout.rows.meets(phase, u)) continue;
      const i64 row = layout.rows.window(phase, u) - layout.rows.lowest;
      for (i64 m = 0; m < layout.reach; ++m) {
        const i64 right = geo.sw == 2 ? 2 * m : m * geo.dw;
        // Beside the last tap of an odd kernel there is none in every other lane.
        const bool half = geo.sw == 2 && 2 * m + 1 == geo.kw;
        offset[count] = flat.offset(0, half ? 1 : 0, row, layout.span_cols - right);
        for (i64 lane = 0; lane < 2; ++lane) {
          const i64 v = geo.sw == 2 ? (lane + geo.pw) % 2 + 2 * m : m;
          weight[lane][count] = v < geo.kw ? u * geo.kw + v : -1;
        }
        ++count;
      }
    }
  }

  // values[tap][lane]
  template <class V>
  void load(const typename V::T* w, typename V::T* values) const {
    for (i64 k = 0; k < count; ++k) {
      typename V::R lanes[2];
      for (i64 i = 0; i < 2; ++i) lanes[i] = V::set1(weight[i][k] < 0 ? 0 : w[weight[i][k]]);
      V::store(values + k * V::kLanes, V::merge(lanes[0], lanes[1]).first);
    }
  }
};

template <class V, Rule kRule>
void depthwise_input_grad(const Geometry& geo, const typename V::T* g, const typename V::T* x,
                          const typename V::T* weight, typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes;
  const GradLayout layout(geo);
  const i64 pixel_rows = ceil_div(geo.h, geo.sh);  // of a phase
  const i64 band = layout.band(pixel_rows, L, sizeof(T)), taps = geo.kh * geo.kw;
  const bool direct = in_place<V>(geo.w), same_lanes = geo.sh * geo.sw == 1;
  struct Scratch {
    Flat<V> g;
    Buffer<T> x, out, weights;
    GradTaps taps[2];
  };
  const i64 planes = geo.n * geo.c, share = planes_of_task(geo);
  const i64 tasks = ceil_div(planes, share), flat_values = band * layout.pitch + L;
  const int team = static_cast<int>(min_i64(threads, tasks));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].g.reserve(layout, band, pixel_rows);
    scratch[i].x.reset(flat_values), scratch[i].out.reset(flat_values);
    for (i64 j = 0; j < flat_values; ++j) scratch[i].x[j] = 0;
    scratch[i].weights.reset(geo.kh * layout.reach * L);
    for (i64 a = 0; a < geo.sh; ++a) scratch[i].taps[a].find(geo, layout, scratch[i].g, a);
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    for (i64 p = task * share; p < min_i64(planes, (task + 1) * share); ++p) {
      const T* w = weight + p % geo.c * taps;
      const bool finite_weight = all_finite<V>(w, taps);
      for (i64 row = 0; row < pixel_rows; row += band) {
        const i64 top = row * geo.sh, end = min_i64(geo.h, (row + band) * geo.sh);
        const T* pixels = x + (p * geo.h + top) * geo.w;
        T* dst = out + (p * geo.h + top) * geo.w;
        T poison[L] = {};
        own.g.copy(g + p * geo.ho * geo.wo, row, min_i64(pixel_rows, row + band), T(0));
        for (i64 a = 0; a < geo.sh; ++a) {
          const GradTaps& met = own.taps[a];
          if (!same_lanes) met.load<V>(w, own.weights.data());
          const auto run = [&](const T* src, const T* xs, T* sums, i64 vectors) {
            const T* const values = same_lanes ? w : own.weights.data();
            const MetTaps<T> taps_met = {met.offset.data(), values, met.count};
            if (same_lanes) {
              add_row_of_slopes<V, kRule, false>(src, taps_met, xs, sums, L, vectors, poison);
            } else {
              add_row_of_slopes<V, kRule, true>(src, taps_met, xs, sums, L, vectors, poison);
            }
          };
          const i64 rows = (end - top - a + geo.sh - 1) / geo.sh;
          if (direct) {
            for (i64 i = 0; i < rows; ++i) {
              const i64 at = (i * geo.sh + a) * geo.w;
              run(own.g.data() + i * layout.pitch, pixels + at, dst + at, geo.w / L);
            }
            continue;
          }
          for (i64 i = 0; i < rows; ++i) {
            copy_values<sizeof(typename V::R)>(own.x.data() + i * layout.pitch,
                                               pixels + (i * geo.sh + a) * geo.w, geo.w, T(0));
          }
          run(own.g.data(), own.x.data(), own.out.data(), ceil_div(rows * layout.pitch, L));
          for (i64 i = 0; i < rows; ++i) {
            copy_values<sizeof(typename V::R)>(dst + (i * geo.sh + a) * geo.w,
                                               own.out.data() + i * layout.pitch, geo.w, T(0));
          }
        }
        if (finite_weight && V::all_zero(V::load(poison))) continue;
        for (i64 i = 0; i < (end - top) * geo.w; ++i) {
          dst[i] =
              define_input_grad<kRule>(geo, g, x, weight, p / geo.c, p % geo.c, top * geo.w + i);
        }
      }
    }
  });
}

}  // namespace
}  // namespace mulfree::adder2d

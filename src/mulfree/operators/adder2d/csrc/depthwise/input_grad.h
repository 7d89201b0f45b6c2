// Gradient of the input of depthwise convolutions: dX = sum over taps of f(w - x) * g. Lanes are
// input pixels, all phases of the columns at once, and a pixel gathers what it receives: x and the
// sums stay in registers. For windows of stride 2 the columns of g are there twice, and
// neighbouring lanes meet different taps.
#pragma once

#include "../input_grad.h"
#include "geometry.h"

namespace mulfree::adder2d {
namespace {

// out[vector] = sum over taps of f(w - x) * g; weights [tap][lane].
template <class V, Rule kRule, Range kRange, int kVecs>
[[gnu::noinline]] void add_slopes(const typename V::T* g, const i64* offsets,
                                  const typename V::T* weights, i64 taps, const typename V::T* x,
                                  typename V::T* out) {
  typename V::R acc[kVecs], xs[kVecs];
  const auto ones = V::ones();
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) acc[j] = V::zero(), xs[j] = V::load(x + j * V::kLanes);
  for (i64 k = 0; k < taps; ++k) {
    const typename V::T* src = g + offsets[k];
    const auto w = V::load(weights + k * V::kLanes);
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
  for (int j = 0; j < kVecs; ++j) V::store(out + j * V::kLanes, acc[j]);
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
      const i64 steps = phase + geo.ph - u * geo.dh;
      if (steps % geo.sh != 0) continue;
      for (i64 m = 0; m < layout.reach; ++m) {
        const i64 right = geo.sw == 2 ? 2 * m : m * geo.dw;
        // Beside the last tap of an odd kernel there is none in every other lane.
        const bool half = geo.sw == 2 && 2 * m + 1 == geo.kw;
        offset[count] =
            flat.offset(0, half ? 1 : 0, steps / geo.sh - layout.lowest, layout.span_cols - right);
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
  const bool direct = in_place<V>(geo.w), finite_weight = all_finite<V>(weight, geo.c * taps);
  struct Scratch {
    Flat<V> g;
    Buffer<T> x, out, weights;
    GradTaps taps[2];
  };
  const i64 planes = geo.n * geo.c, share = planes_of_task(geo);
  const i64 tasks = ceil_div(planes, share);
  const int team = static_cast<int>(min_i64(threads, tasks));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].g.reserve(layout, band);
    scratch[i].x.reset(band * layout.pitch + L);
    scratch[i].out.reset(band * layout.pitch + L);
    scratch[i].weights.reset(geo.kh * layout.reach * L);
    for (i64 a = 0; a < geo.sh; ++a) scratch[i].taps[a].find(geo, layout, scratch[i].g, a);
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    for (i64 p = task * share; p < min_i64(planes, (task + 1) * share); ++p) {
      const T* w = weight + p % geo.c * taps;
      for (i64 row = 0; row < pixel_rows; row += band) {
        const i64 end = min_i64(geo.h, (row + band) * geo.sh), first = p * geo.h + row * geo.sh;
        const T* pixels = x + first * geo.w;
        T* dst = out + first * geo.w;
        const i64 count = (end - row * geo.sh) * geo.w;
        const bool finite = finite_weight && all_finite<V>(pixels, count);
        own.g.copy(g + p * geo.ho * geo.wo, row, min_i64(pixel_rows, row + band), T(0));
        for (i64 a = 0; a < geo.sh; ++a) {
          const GradTaps& met = own.taps[a];
          met.load<V>(w, own.weights.data());
          const i64 rows = (end - row * geo.sh - a + geo.sh - 1) / geo.sh;
          const auto run = [&](const T* src, const T* xs, T* sums, i64 vectors) {
            for_even_tiles<V::kDirectGradVecs>(vectors, [&](auto size, i64 j) {
              constexpr int kVecs = decltype(size)::value;
              if constexpr (kRule == Rule::adder && V::kClampOneFinite) {
                if (finite) {
                  return add_slopes<V, kRule, Range::finite, kVecs>(src + j * L, met.offset.data(),
                                                                    own.weights.data(), met.count,
                                                                    xs + j * L, sums + j * L);
                }
              }
              add_slopes<V, kRule, Range::all, kVecs>(src + j * L, met.offset.data(),
                                                      own.weights.data(), met.count, xs + j * L,
                                                      sums + j * L);
            });
          };
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
        for (i64 i = 0; i < (finite ? 0 : count); ++i) {
          if (dst[i] == dst[i]) continue;
          dst[i] = define_input_grad<kRule>(geo, g, x, weight, p / geo.c, p % geo.c,
                                            row * geo.sh * geo.w + i);
        }
      }
    }
  });
}

}  // namespace
}  // namespace mulfree::adder2d

// Forward of depthwise convolutions: out[n, c, oh, ow] = -sum over taps of |x - w|. Lanes are
// windows.
#pragma once

#include "geometry.h"

namespace mulfree::adder2d {
namespace {

// out[vector] = -sum over taps of |x - w|; weight [tap][lane] or, the same in all lanes, [tap]. The
// vectors of x are adjacent, the vectors of out `step` values apart.
template <class V, bool kPerLane, int kVecs>
[[gnu::noinline]] void subtract_distances(const typename V::T* x, const i64* offsets,
                                          const typename V::T* weight, i64 taps, typename V::T* out,
                                          i64 step) {
  typename V::R acc[kVecs];
  const auto ones = V::ones();
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) acc[j] = V::zero();
  for (i64 k = 0; k < taps; ++k) {
    const typename V::T* src = x + offsets[k];
    const auto w = kPerLane ? V::load(weight + k * V::kLanes) : V::set1(weight[k]);
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      const auto t = V::subtract_on_fma(V::load(src + j * V::kLanes), w, ones);
      acc[j] = V::sub(acc[j], V::abs(t));
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; ++j) V::store(out + j * step, acc[j]);
}

template <class V>
void depthwise_forward(const Geometry& geo, const typename V::T* x, const typename V::T* weight,
                       typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes;
  const FlatLayout layout = window_layout(geo);
  const i64 band = layout.band(geo.ho, L, sizeof(T)), taps = geo.kh * geo.kw;
  const bool direct = in_place<V>(geo.wo);
  struct Scratch {
    Flat<V> x;
    Buffer<T> out;
    Buffer<i64> offsets;
  };
  const i64 planes = geo.n * geo.c, share = planes_of_task(geo);
  const i64 tasks = ceil_div(planes, share);
  const int team = static_cast<int>(min_i64(threads, tasks));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].x.reserve(layout, band, geo.ho);
    scratch[i].out.reset(band * layout.pitch + L);
    scratch[i].offsets.reset(taps);
    window_offsets<V>(geo, scratch[i].x, scratch[i].offsets.data());
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    for (i64 p = task * share; p < min_i64(planes, (task + 1) * share); ++p) {
      const T* w = weight + p % geo.c * taps;
      for (i64 row = 0; row < geo.ho; row += band) {
        const i64 rows = min_i64(band, geo.ho - row);
        T* dst = out + (p * geo.ho + row) * geo.wo;
        own.x.copy(x + p * geo.h * geo.w, row, row + rows, T(0));
        const auto run = [&](const T* src, T* sums, i64 vectors) {
          for_even_tiles<V::kDirectVecs>(vectors, [&](auto size, i64 j) {
            subtract_distances<V, false, decltype(size)::value>(src + j * L, own.offsets.data(), w,
                                                                taps, sums + j * L, L);
          });
        };
        if (direct) {
          for (i64 i = 0; i < rows; ++i) {
            run(own.x.data() + i * layout.pitch, dst + i * geo.wo, geo.wo / L);
          }
          continue;
        }
        run(own.x.data(), own.out.data(), ceil_div(rows * layout.pitch, L));
        for (i64 i = 0; i < rows; ++i) {
          copy_values<sizeof(typename V::R)>(dst + i * geo.wo, own.out.data() + i * layout.pitch,
                                             geo.wo, T(0));
        }
      }
    }
  });
}

}  // namespace
}  // namespace mulfree::adder2d

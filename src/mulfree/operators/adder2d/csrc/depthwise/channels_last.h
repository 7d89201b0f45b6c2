// Depthwise convolutions in channels_last: x [n, h, w, c], out [n, ho, wo, c]. Lanes are channels.
//
// A task owns a band of rows of an image and some channels, which it copies into bordered rows a
// vector of channels at a time; the kernels serve both memory formats. They return
// false, with `out` not complete, for a geometry that they do not take and for gradients of values
// that are not finite.
#pragma once

#include "bordered.h"
#include "forward.h"
#include "input_grad.h"
#include "weight_grad.h"

namespace mulfree::adder2d {
namespace {

// Channels of a task: two cache lines.
template <class V>
inline i64 channels_of_task(const Geometry& geo) {
  constexpr i64 kBytes = 128;
  return min_i64(geo.c, kBytes / static_cast<i64>(sizeof(typename V::T)));
}

// Filters as [vector of channels][tap][lane].
template <class V>
class VectorFilters {
 public:
  using T = typename V::T;

  VectorFilters(const Geometry& geo, const T* weight)
      : taps_(geo.kh * geo.kw), values_(geo.c * taps_) {
    for (i64 c = 0; c < geo.c; ++c) {
      for (i64 k = 0; k < taps_; ++k) {
        values_[c / L * L * taps_ + k * L + c % L] = weight[c * taps_ + k];
      }
    }
  }
  // Filters of channels [c, c + lanes).
  const T* operator[](i64 c) const { return values_.data() + c * taps_; }

 private:
  static constexpr i64 L = V::kLanes;
  i64 taps_;
  Buffer<T> values_;
};

template <class V>
bool last_forward(const Geometry& geo, const typename V::T* x, const typename V::T* weight,
                  typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes;
  if (!takes_channels_last<V>(geo)) return false;
  const LastLayout layout = last_window_layout(geo);
  const i64 band = layout.band(geo.ho, sizeof(typename V::R)), bands = ceil_div(geo.ho, band);
  const i64 taps = geo.kh * geo.kw, share = channels_of_task<V>(geo);
  const i64 parts = ceil_div(geo.c, share), tasks = geo.n * bands * parts;
  const VectorFilters<V> filters(geo, weight);
  struct Scratch {
    Bordered<V> x;
    Buffer<i64> offsets;
  };
  const int team = static_cast<int>(max_i64(1, min_i64(threads, tasks)));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].x.reserve(layout, band);
    scratch[i].offsets.reset(taps);
    last_window_offsets<V>(geo, scratch[i].x, scratch[i].offsets.data());
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    const i64 first = task % parts * share, n = task / parts / bands;
    const i64 row = task / parts % bands * band, rows = min_i64(band, geo.ho - row);
    for (i64 c = first; c < min_i64(geo.c, first + share); c += L) {
      own.x.copy(x + n * geo.h * geo.w * geo.c + c, row, rows, V::zero());
      for (i64 i = 0; i < rows; ++i) {
        const T* src = own.x.data() + i * layout.pitch * L;
        T* dst = out + (n * geo.ho + row + i) * geo.wo * geo.c + c;
        for_even_tiles<V::kDirectVecs>(geo.wo, [&](auto size, i64 j) {
          subtract_distances<V, true, decltype(size)::value>(
              src + j * L, own.offsets.data(), filters[c], taps, dst + j * geo.c, geo.c);
        });
      }
    }
  });
  return true;
}

template <class V, Rule kRule>
bool last_input_grad(const Geometry& geo, const typename V::T* g, const typename V::T* x,
                     const typename V::T* weight, typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes;
  const i64 taps = geo.kh * geo.kw;
  if (!takes_channels_last<V>(geo) || !all_finite<V>(weight, geo.c * taps)) return false;
  const LastGradLayout layout(geo);
  const i64 pixel_rows = ceil_div(geo.h, geo.sh);  // of a phase
  const i64 band =
      layout.band(pixel_rows, static_cast<i64>(sizeof(typename V::R)) * geo.sh * geo.sw);
  const i64 bands = ceil_div(pixel_rows, band), share = channels_of_task<V>(geo);
  const i64 parts = ceil_div(geo.c, share), tasks = geo.n * bands * parts;
  const VectorFilters<V> filters(geo, weight);
  struct Scratch {
    Bordered<V> g;
    Buffer<T> met;
    Buffer<i64> offsets;
    bool finite = true;
  };
  const int team = static_cast<int>(max_i64(1, min_i64(threads, tasks)));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].g.reserve(layout, band);
    scratch[i].met.reset(taps * L);
    scratch[i].offsets.reset(taps);
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    const i64 first = task % parts * share, n = task / parts / bands;
    const i64 row = task / parts % bands * band, rows = min_i64(band, pixel_rows - row);
    for (i64 c = first; c < min_i64(geo.c, first + share); c += L) {
      own.g.copy(g + n * geo.ho * geo.wo * geo.c + c, row, rows, V::zero());
      T poison[L] = {};
      for (i64 phase = 0; phase < geo.sh * geo.sw; ++phase) {
        const i64 a = phase / geo.sw, b = phase % geo.sw;
        i64 count = 0;
        for (i64 k = 0; k < taps; ++k) {
          const i64 u = k / geo.kw, v = k % geo.kw;
          if (!layout.rows.meets(a, u) || !layout.cols.meets(b, v)) continue;
          own.offsets[count] = own.g.offset(0, 0, layout.rows.window(a, u) - layout.rows.lowest,
                                            layout.cols.window(b, v) - layout.cols.lowest);
          V::store(own.met.data() + count++ * L, V::load(filters[c] + k * L));
        }
        const i64 pixels = b < geo.w ? (geo.w - 1 - b) / geo.sw + 1 : 0, step = geo.sw * geo.c;
        for (i64 i = 0; i < rows && (row + i) * geo.sh + a < geo.h; ++i) {
          const T* src = own.g.data() + i * layout.pitch * L;
          const i64 at = ((n * geo.h + (row + i) * geo.sh + a) * geo.w + b) * geo.c + c;
          // Pixels are far apart, out of reach for the hardware's prefetch.
          const i64 below = (row + i + 1) * geo.sh + a < geo.h ? geo.sh * geo.w * geo.c : 0;
          for (i64 j = 0; j < pixels; ++j) {
            __builtin_prefetch(x + at + below + j * step);
            __builtin_prefetch(out + at + below + j * step, 1);
          }
          add_row_of_slopes<V, kRule, true>(src, {own.offsets.data(), own.met.data(), count},
                                            x + at, out + at, step, pixels, poison);
        }
      }
      own.finite &= V::all_zero(V::load(poison));
    }
  });
  bool finite = true;
  for (int i = 0; i < team; ++i) finite &= scratch[i].finite;
  return finite;
}

template <class V, Rule kRule>
bool last_weight_grad(const Geometry& geo, const typename V::T* g, const typename V::T* x,
                      const typename V::T* weight, typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes;
  constexpr Difference kForm = kRule == Rule::sign ? Difference::sign : Difference::centred;
  if (!takes_channels_last<V>(geo)) return false;
  const LastLayout layout = last_window_layout(geo);
  const i64 band = layout.band(geo.ho, sizeof(typename V::R)), taps = geo.kh * geo.kw;
  const i64 share = channels_of_task<V>(geo), parts = ceil_div(geo.c, share);
  // Chunks of images with sums of their own, added up in order.
  const i64 chunk = ceil_div(geo.n, 8), chunks = ceil_div(geo.n, chunk), tasks = chunks * parts;
  const i64 block = (taps + 1) * L;  // sums of a vector of channels
  Buffer<T> sums(chunks * (geo.c / L) * block);
  for (i64 i = 0; i < chunks * (geo.c / L) * block; ++i) sums[i] = 0;
  const VectorFilters<V> filters(geo, weight);
  struct Scratch {
    Bordered<V> x;
    Buffer<i64> offsets;
  };
  const int team = static_cast<int>(max_i64(1, min_i64(threads, tasks)));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].x.reserve(layout, band);
    scratch[i].offsets.reset(taps);
    last_window_offsets<V>(geo, scratch[i].x, scratch[i].offsets.data());
  }
  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    const i64 first = task % parts * share, part = task / parts;
    for (i64 n = part * chunk; n < min_i64(geo.n, (part + 1) * chunk); ++n) {
      for (i64 row = 0; row < geo.ho; row += band) {
        const i64 rows = min_i64(band, geo.ho - row);
        for (i64 c = first; c < min_i64(geo.c, first + share); c += L) {
          const T* w = filters[c];
          const auto centre = kForm == Difference::centred ? V::load(w + taps / 2 * L) : V::zero();
          own.x.copy(x + n * geo.h * geo.w * geo.c + c, row, rows, centre);
          T* total = sums.data() + (part * (geo.c / L) + c / L) * block;
          for_even_tiles<9>(taps, [&](auto size, i64 k) {
            add_products<V, kForm, true, decltype(size)::value>(
                own.x.data(), layout.pitch * L, own.offsets.data() + k, w + k * L,
                g + (n * geo.ho + row) * geo.wo * geo.c + c, geo.wo * geo.c, geo.c, rows, geo.wo,
                total + k * L, k == 0 ? total + taps * L : nullptr);
          });
        }
      }
    }
  });
  bool finite = true;
  for (i64 c = 0; c < geo.c; ++c) {
    const T *w = weight + c * taps, centre = w[taps / 2];
    for (i64 k = 0; k < taps; ++k) {
      T sum = 0, g_sum = 0;
      for (i64 part = 0; part < chunks; ++part) {
        const T* total = sums.data() + (part * (geo.c / L) + c / L) * block + c % L;
        sum += total[k * L], g_sum += total[taps * L];
      }
      T& value = out[c * taps + k];
      value = kForm == Difference::centred ? sum - (w[k] - centre) * g_sum : sum;
      finite &= V::is_finite(value);
    }
  }
  return finite;
}

}  // namespace
}  // namespace mulfree::adder2d

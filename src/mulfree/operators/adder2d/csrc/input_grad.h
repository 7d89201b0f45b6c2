// Gradient of the input: dX[n, ci, ih, iw] = sum over filters and taps of f(w - x) * g, with
// f = clamp(., -1, 1) (rule adder) or sign (rule sign); g is 0 outside the output.
//
// A gather: lanes are input pixels, one stride phase at a time (the pixels of a phase are
// reached by the same taps), so x and the accumulators stay in registers, g is the operand that
// is lowered into panels [filter x tap][kTile], and no result is scattered or added twice. The
// price: where a tap lies beyond the output, 0 times its difference is added, which is NaN where
// weight or pixel is. Blocks with such values have every NaN formed again from the definition.
#pragma once

#include "forward.h"

namespace mulfree::adder2d {
namespace {

// f(t) for all values; a NaN stays a NaN. Sign is clamp(t * 2^k * 2^k): both factors together
// take the smallest subnormal beyond 1 and leave 0 and infinities where they are.
template <class V, Rule kRule>
inline typename V::R bounded(typename V::R t) {
  if constexpr (kRule == Rule::sign) {
    const auto big = V::set1(V::kBig);
    t = V::mul(V::mul(t, big), big);
  }
  return V::clamp_one(t);
}

// f(t) of one value.
template <Rule kRule, class T>
inline T bounded_value(T t) {
  if constexpr (kRule == Rule::sign) return t > 0 ? T(1) : t < 0 ? T(-1) : t;
  return t > 1 ? T(1) : t < -1 ? T(-1) : t;
}

// The gradient of one pixel of channel `ci`, of the taps within the output alone.
template <Rule kRule, class T>
T define_input_grad(const Geometry& geo, const T* g, const T* x, const T* weight, i64 n, i64 ci,
                    i64 pixel) {
  const i64 channels = geo.c / geo.groups, filters = geo.co / geo.groups;
  const i64 group = ci / channels, channel = ci % channels;
  const i64 row = pixel / geo.w + geo.ph, col = pixel % geo.w + geo.pw;
  const T value = x[(n * geo.c + ci) * geo.h * geo.w + pixel];
  T sum = 0;
  for (i64 f = group * filters; f < (group + 1) * filters; ++f) {
    const T* g_plane = g + (n * geo.co + f) * geo.ho * geo.wo;
    const T* taps = weight + (f * channels + channel) * geo.kh * geo.kw;
    for (i64 r = 0; r < geo.kh; ++r) {
      const i64 up = row - r * geo.dh;
      if (up < 0 || up % geo.sh != 0 || up / geo.sh >= geo.ho) continue;
      for (i64 c = 0; c < geo.kw; ++c) {
        const i64 left = col - c * geo.dw;
        if (left < 0 || left % geo.sw != 0 || left / geo.sw >= geo.wo) continue;
        const T slope = bounded_value<kRule>(taps[r * geo.kw + c] - value);
        sum += slope * g_plane[up / geo.sh * geo.wo + left / geo.sw];
      }
    }
  }
  return sum;
}

// How the difference is bounded: for all values, or in one instruction for finite ones.
enum class Range { all, finite };

// sums[row][lane] (+)= sum of f(w - x) * g. x [row][x_pitch lanes] stays in registers where
// there are enough of them.
template <class V, Rule kRule, Range kRange, int kRows, int kVecs>
[[gnu::noinline]] void add_input_grad(const Operands<typename V::T>& in, const typename V::T* x,
                                      bool fresh, typename V::T* sums, i64 pitch) {
  typename V::R acc[kRows][kVecs], xs[kRows][kVecs];
  const auto ones = V::ones();
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      acc[i][j] = V::zero();
      xs[i][j] = V::load(x + i * pitch + j * V::kLanes);
    }
  }
  for (i64 k = 0; k < in.count; ++k) {
    const typename V::T* w = in.weight + in.steps[k].weight;
    typename V::R gs[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) gs[j] = V::load(in.vectors[j] + in.steps[k].panel);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto ws = V::set1(w[i * in.weight_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        // Half of the differences, or all, on the multiply-add ports: see the instruction sets.
        const bool on_fma = (i + j) % 2 < V::kGradDifferencesOnFma;
        const auto t = on_fma ? V::subtract_on_fma(ws, xs[i][j], ones) : V::sub(ws, xs[i][j]);
        if constexpr (kRange == Range::finite) {
          acc[i][j] = V::fma(V::clamp_one_finite(t, ones), gs[j], acc[i][j]);
        } else {
          acc[i][j] = V::fma(bounded<V, kRule>(t), gs[j], acc[i][j]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      typename V::T* dst = sums + i * pitch + j * V::kLanes;
      V::store(dst, fresh ? acc[i][j] : V::add(V::load(dst), acc[i][j]));
    }
  }
}

// One stride phase: the input pixels (rows.first + i * sh, cols.first + j * sw).
struct PhaseAxis : Axis {
  i64 first = 0;
};

template <class V, Rule kRule>
void input_grad_phase(const Geometry& geo, const PhaseAxis& rows, const PhaseAxis& cols,
                      const typename V::T* g, const typename V::T* x, const typename V::T* weight,
                      bool finite_weight, typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes, kTile = V::kGradVecs * L;
  const i64 channels = geo.c / geo.groups, filters = geo.co / geo.groups;
  const i64 window = geo.kh * geo.kw, reach = rows.taps * cols.taps;
  const i64 in_plane = geo.h * geo.w, out_plane = geo.ho * geo.wo;
  const Blocks blocks(geo.n, rows.lanes, cols.lanes, 16 * kTile);
  const Depth depth(filters, reach, 96);
  const i64 taps = filters * reach;
  const i64 task_channels = rows_of_task(channels, 2 * blocks.max_lanes(),
                                         blocks.count() * geo.groups, V::kGradRows, sizeof(T));
  const i64 channel_parts = ceil_div(channels, task_channels);
  const i64 tasks = blocks.count() * geo.groups * channel_parts;

  struct Scratch {
    Lowering<V> lowering;
    Buffer<T> panel, sums, x;
    Buffer<Step> steps;
  };
  const int team = static_cast<int>(max_i64(1, min_i64(threads, tasks)));
  Workers<Scratch> scratch(team);
  const i64 tile_values = task_channels * kTile;
  for (int i = 0; i < team; ++i) {
    scratch[i].lowering.reserve(rows, cols, blocks, kTile, (depth.taps - 1) / reach + 2);
    scratch[i].panel.reset(depth.taps * kTile + L);
    scratch[i].sums.reset(ceil_div(blocks.max_lanes(), kTile) * tile_values);
    scratch[i].x.reset(ceil_div(blocks.max_lanes(), kTile) * tile_values);
    scratch[i].steps.reset(depth.taps);
  }

  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    const i64 part = task % channel_parts, group = task / channel_parts % geo.groups;
    const Block block = blocks[task / channel_parts / geo.groups];
    const i64 first = part * task_channels, count = min_i64(task_channels, channels - first);
    const i64 ci = group * channels + first;
    const Plane plane = {rows.first, cols.first, geo.sh, geo.sw, geo.w};
    Lowering<V>& lowering = own.lowering;
    lowering.start(block);

    auto poison = V::zero();  // becomes NaN where x is not finite
    for (i64 t = 0; t < lowering.tiles(); ++t) {
      const i64 lanes = lowering.tile_lanes(t);
      T* tile = own.x.data() + t * tile_values;
      for_each_stretch(block, plane, t * kTile, t * kTile + lanes,
                       [&](i64 lane, i64 length, i64 image, i64 offset) {
                         const T* src = x + (image * geo.c + ci) * in_plane + offset;
                         for (i64 row = 0; row < count; ++row, src += in_plane) {
                           T* dst = tile + row * kTile + lane;
                           for (i64 j = 0; j < length; j += L) {
                             const auto v = load_spaced<V>(src + j * geo.sw, geo.sw, length - j);
                             poison = V::fma(v, V::zero(), poison);
                             V::store_first(dst + j, kTile - lane - j, v);
                           }
                         }
                       });
    }
    const bool finite = finite_weight && V::all_zero(poison);
    for (i64 b = 0; b < depth.blocks; ++b) {
      const i64 begin = b * depth.taps, end = min_i64(taps, begin + depth.taps);
      const i64 filter = begin / reach;
      lowering.copy(g + (group * filters + filter) * out_plane, (end - 1) / reach - filter + 1,
                    out_plane, geo.co * out_plane);
      for (i64 k = begin; k < end; ++k) {
        const i64 tap = rows.tap[k % reach / cols.taps] * geo.kw + cols.tap[k % reach % cols.taps];
        own.steps[k - begin] = {0, (group * filters + k / reach) * channels * window + tap,
                                lowering.tap_offset(k / reach - filter, k % reach)};
      }
      for (i64 t = 0; t < lowering.tiles(); ++t) {
        const T* vectors[V::kGradVecs];
        lowering.operand(t, own.steps.data(), end - begin, own.panel.data(), vectors);
        const i64 lanes = lowering.tile_lanes(t);
        T* sums = own.sums.data() + t * tile_values;
        const T* tile = own.x.data() + t * tile_values;
        with_vectors<V::kGradVecs>(ceil_div(lanes, L), [&](auto vecs) {
          constexpr int kVecs = decltype(vecs)::value;
          for_row_blocks<V::kGradRows>(count, [&](auto size, i64 row) {
            constexpr int kRows = decltype(size)::value;
            const Operands<T> in = {vectors, weight + (first + row) * window, window,
                                    own.steps.data(), end - begin};
            if constexpr (kRule == Rule::adder && V::kClampOneFinite) {
              if (finite) {
                return add_input_grad<V, kRule, Range::finite, kRows, kVecs>(
                    in, tile + row * kTile, b == 0, sums + row * kTile, kTile);
              }
            }
            add_input_grad<V, kRule, Range::all, kRows, kVecs>(in, tile + row * kTile, b == 0,
                                                               sums + row * kTile, kTile);
          });
        });
        if (b + 1 < depth.blocks) continue;
        for_each_stretch(block, plane, t * kTile, t * kTile + lanes,
                         [&](i64 lane, i64 length, i64 image, i64 offset) {
                           T* dst = out + (image * geo.c + ci) * in_plane + offset;
                           for (i64 row = 0; row < count; ++row, dst += in_plane) {
                             const T* src = sums + row * kTile + lane;
                             for (i64 j = 0; j < length; j += L) {
                               store_spaced<V>(dst + j * geo.sw, geo.sw, length - j,
                                               V::load_first(src + j, length - j));
                             }
                             for (i64 j = 0; j < (finite ? 0 : length); ++j) {
                               T& value = dst[j * geo.sw];
                               if (value == value) continue;
                               value = define_input_grad<kRule>(geo, g, x, weight, image, ci + row,
                                                                offset + j * geo.sw);
                             }
                           }
                         });
      }
    }
  });
}

template <class V, Rule kRule>
void input_grad_rule(const Geometry& geo, const typename V::T* g, const typename V::T* x,
                     const typename V::T* weight, typename V::T* out, int threads) {
  const bool finite = all_finite<V>(weight, geo.co * (geo.c / geo.groups) * geo.kh * geo.kw);
  Axis row_windows, col_windows;
  make_window_axis(row_windows, geo.h, geo.ho, geo.kh, geo.sh, geo.ph, geo.dh);
  make_window_axis(col_windows, geo.w, geo.wo, geo.kw, geo.sw, geo.pw, geo.dw);
  if (row_windows.slots < geo.sh || col_windows.slots < geo.sw) {
    // No tap reaches the pixels of some phases.
    const i64 plane = geo.h * geo.w;
    parallel(geo.n, threads, [&](int, i64 n) {
      for (i64 i = n * geo.c * plane; i < (n + 1) * geo.c * plane; ++i) out[i] = 0;
    });
  }
  for (i64 top = 0; top < min_i64(geo.sh, geo.h); ++top) {
    PhaseAxis rows;
    rows.first = top;
    make_transposed_axis(rows, top, geo.h, geo.ho, geo.kh, geo.sh, geo.ph, geo.dh);
    for (i64 left = 0; left < min_i64(geo.sw, geo.w); ++left) {
      PhaseAxis cols;
      cols.first = left;
      make_transposed_axis(cols, left, geo.w, geo.wo, geo.kw, geo.sw, geo.pw, geo.dw);
      if (rows.taps > 0 && cols.taps > 0) {
        input_grad_phase<V, kRule>(geo, rows, cols, g, x, weight, finite, out, threads);
      }
    }
  }
}

template <class V>
void input_grad(const Geometry& geo, Rule rule, const typename V::T* g, const typename V::T* x,
                const typename V::T* weight, typename V::T* out, int threads) {
  if (geo.n == 0 || geo.c == 0) return;
  if (geo.co == 0) {
    for (i64 i = 0; i < geo.n * geo.c * geo.h * geo.w; ++i) out[i] = 0;
    return;
  }
  if (rule == Rule::sign) {
    input_grad_rule<V, Rule::sign>(geo, g, x, weight, out, threads);
  } else {
    input_grad_rule<V, Rule::adder>(geo, g, x, weight, out, threads);
  }
}

}  // namespace
}  // namespace mulfree::adder2d

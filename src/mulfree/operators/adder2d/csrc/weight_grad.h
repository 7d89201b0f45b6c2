// Gradient of the weights: dW[co, k] = sum over windows p of f(x_kp - w_k) * g_p, with f the
// identity (rule adder) or sign (rule sign).
//
// Rule adder is a matrix product: with any c_k,
//   sum (x - w) g = sum (x - c_k) g - (w - c_k) sum g.
// c_k is the mean of the weights at tap k over the filters, subtracted while packing, so that
// the two terms stay small when x and w share an offset. The identity is none for values that are
// not finite or whose sums overflow. Such a value leaves no result finite that it reaches; where
// one is not, the differences are formed one by one.
//
// Lanes are windows: a micro-kernel forms kDotFilters x kDotTaps dot products over one block of
// lanes, from rows packed [tap][lane] and [filter][lane]. A task owns a chunk of the blocks and
// some channels; the chunks' sums are added up in order at the end.
#pragma once

#include "input_grad.h"

namespace mulfree::adder2d {
namespace {

enum class Difference { centred, plain, sign };

// sums[tap][filter] += sum over lanes of f(x - w) * g. `lanes` is a multiple of the vector for
// the centred form, whose padding is 0 in both operands; the others do not touch padding.
template <class V, Difference kForm>
[[gnu::noinline]] void add_weight_grad(const typename V::T* x, const typename V::T* g, i64 pitch,
                                       i64 lanes, const typename V::T* const* weights,
                                       typename V::T* sums, i64 sums_pitch) {
  using T = typename V::T;
  constexpr int kTaps = V::kDotTaps, kFilters = V::kDotFilters;
  constexpr i64 L = V::kLanes;
  typename V::R acc[kTaps][kFilters];
#pragma GCC unroll 8
  for (int i = 0; i < kTaps; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kFilters; ++j) acc[i][j] = V::zero();
  }
  i64 p = 0;
  for (; p + L <= lanes; p += L) {
    typename V::R gs[kFilters];
#pragma GCC unroll 4
    for (int j = 0; j < kFilters; ++j) gs[j] = V::load(g + j * pitch + p);
#pragma GCC unroll 8
    for (int i = 0; i < kTaps; ++i) {
      const auto xs = V::load(x + i * pitch + p);
#pragma GCC unroll 4
      for (int j = 0; j < kFilters; ++j) {
        if constexpr (kForm == Difference::centred) {
          acc[i][j] = V::fma(xs, gs[j], acc[i][j]);
        } else {
          auto t = V::sub(xs, V::set1(weights[j][i]));
          if constexpr (kForm == Difference::sign) t = bounded<V, Rule::sign>(t);
          acc[i][j] = V::fma(t, gs[j], acc[i][j]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTaps; ++i) V::add_sums4(acc[i], sums + i * sums_pitch);
  if constexpr (kForm != Difference::centred) {
    for (; p < lanes; ++p) {
      for (int i = 0; i < kTaps; ++i) {
        for (int j = 0; j < kFilters; ++j) {
          T t = x[i * pitch + p] - weights[j][i];
          if constexpr (kForm == Difference::sign) t = bounded_value<Rule::sign>(t);
          sums[i * sums_pitch + j] += t * g[j * pitch + p];
        }
      }
    }
  }
}

// centres[group][tap] = mean over the filters of the group.
template <class V>
void mean_weights(const Geometry& geo, const typename V::T* weight, typename V::T* centres,
                  int threads) {
  using T = typename V::T;
  const i64 filters = geo.co / geo.groups;
  const i64 taps = geo.c / geo.groups * geo.kh * geo.kw;
  constexpr i64 kStretch = 256;
  const i64 parts = ceil_div(taps, kStretch);
  parallel(geo.groups * parts, threads, [&](int, i64 task) {
    const i64 begin = task % parts * kStretch, count = min_i64(kStretch, taps - begin);
    const T* first = weight + task / parts * filters * taps + begin;
    T* sum = centres + task / parts * taps + begin;
    // Relative to the first filter: equal weights have exactly themselves as mean.
    for (i64 f = 1; f < filters; ++f) {
      for (i64 k = 0; k < count; ++k) sum[k] += first[f * taps + k] - first[k];
    }
    for (i64 k = 0; k < count; ++k) sum[k] = first[k] + sum[k] / static_cast<T>(filters);
  });
}

// dW by one form.
template <class V, Difference kForm>
void weight_grad_form(const Geometry& geo, const typename V::T* g, const typename V::T* x,
                      const typename V::T* weight, typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes, kTaps = V::kDotTaps, kFilters = V::kDotFilters;
  const i64 channels = geo.c / geo.groups, filters = geo.co / geo.groups;
  const i64 window = geo.kh * geo.kw, taps = channels * window;
  const i64 in_plane = geo.h * geo.w, out_plane = geo.ho * geo.wo;
  Axis rows, cols;
  make_window_axis(rows, geo.h, geo.ho, geo.kh, geo.sh, geo.ph, geo.dh);
  make_window_axis(cols, geo.w, geo.wo, geo.kw, geo.sw, geo.pw, geo.dw);
  // Six packed taps and four filters of a block share L1.
  const Blocks blocks(geo.n, geo.ho, geo.wo, 48 * L);

  // Chunks of blocks with private sums, within 1 MB; then channels, to have some eight tasks.
  const i64 sums_pitch = round_up(filters, kFilters);
  const i64 plane_values = geo.groups * (taps + channels * kTaps) * sums_pitch;
  const i64 fit_chunks = 1024 * 1024 / static_cast<i64>(sizeof(T)) / plane_values;
  i64 chunks = max_i64(1, min_i64(min_i64(8, blocks.count()), fit_chunks));
  const i64 chunk_blocks = ceil_div(blocks.count(), chunks);
  chunks = ceil_div(blocks.count(), chunk_blocks);
  const i64 fit_channels = max_i64(1, 144 / window);
  const i64 wanted = ceil_div(8, chunks * geo.groups);
  const i64 channel_parts = max_i64(ceil_div(channels, fit_channels), min_i64(channels, wanted));
  const i64 task_channels = ceil_div(channels, channel_parts);
  const i64 parts = ceil_div(channels, task_channels);
  const i64 part_taps = round_up(task_channels * window, kTaps);
  const i64 tasks = chunks * geo.groups * parts;

  Buffer<T> sums(size_product(tasks, part_taps * sums_pitch));
  Buffer<T> g_sums(chunks * geo.groups * sums_pitch);
  Buffer<T> centres(geo.groups * taps);
  for (i64 i = 0; i < geo.groups * taps; ++i) centres[i] = 0;
  if constexpr (kForm == Difference::centred) {
    mean_weights<V>(geo, weight, centres.data(), threads);
  }

  struct Scratch {
    Lowering<V> lowering;
    Buffer<T> x, g;
    Buffer<Step> steps;
  };
  const int team = static_cast<int>(max_i64(1, min_i64(threads, tasks)));
  Workers<Scratch> scratch(team);
  const i64 max_pitch = round_up(blocks.max_lanes(), L);
  for (int i = 0; i < team; ++i) {
    scratch[i].lowering.reserve(rows, cols, blocks, max_pitch, task_channels);
    scratch[i].x.reset(size_product(part_taps, max_pitch) + L);
    scratch[i].g.reset(size_product(sums_pitch, max_pitch) + L);
    scratch[i].steps.reset(part_taps);
  }

  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    const i64 part = task % parts, group = task / parts % geo.groups;
    const i64 chunk = task / parts / geo.groups;
    const i64 first = part * task_channels, count = min_i64(task_channels, channels - first);
    const i64 own_taps = count * window, padded_taps = round_up(own_taps, kTaps);
    T* total = sums.data() + task * part_taps * sums_pitch;
    for (i64 i = 0; i < part_taps * sums_pitch; ++i) total[i] = 0;
    T* g_total = g_sums.data() + (chunk * geo.groups + group) * sums_pitch;
    if (part == 0) {
      for (i64 f = 0; f < sums_pitch; ++f) g_total[f] = 0;
    }
    for (i64 b = chunk * chunk_blocks; b < min_i64(blocks.count(), (chunk + 1) * chunk_blocks);
         ++b) {
      const Block block = blocks[b];
      const i64 lanes = block.lanes(), pitch = round_up(lanes, L);
      own.lowering.start(block);
      own.lowering.copy(x + (group * channels + first) * in_plane, count, in_plane,
                        geo.c * in_plane);
      for (i64 k = 0; k < own_taps; ++k) {
        own.steps[k] = {0, 0, own.lowering.tap_offset(k / window, k % window)};
      }
      own.lowering.pack(0, own.steps.data(), own_taps, own.x.data(), pitch);
      for (i64 k = own_taps; k < padded_taps; ++k) {
        for (i64 p = 0; p < pitch; p += L) V::store(own.x.data() + k * pitch + p, V::zero());
      }
      if constexpr (kForm == Difference::centred) {
        for (i64 k = 0; k < own_taps; ++k) {
          const auto centre = V::set1(centres[group * taps + first * window + k]);
          T* row = own.x.data() + k * pitch;
          i64 p = 0;
          for (; p + L <= lanes; p += L) V::store(row + p, V::sub(V::load(row + p), centre));
          if (p < lanes) V::store_first(row + p, lanes - p, V::sub(V::load(row + p), centre));
        }
      }
      for (i64 f = 0; f < sums_pitch; ++f) {
        T* row = own.g.data() + f * pitch;
        if (f >= filters) {
          for (i64 p = 0; p < pitch; p += L) V::store(row + p, V::zero());
          continue;
        }
        V::store(row + pitch - L, V::zero());
        for_each_stretch(block, {0, 0, 1, 1, geo.wo}, 0, lanes,
                         [&](i64 lane, i64 length, i64 image, i64 offset) {
                           const T* src =
                               g + (image * geo.co + group * filters + f) * out_plane + offset;
                           for (i64 j = 0; j < length; j += L) {
                             const i64 n = min_i64(L, length - j);
                             V::store_first(row + lane + j, n, V::load_first(src + j, n));
                           }
                         });
        if (part == 0) {
          auto acc = V::zero();
          for (i64 p = 0; p < pitch; p += L) acc = V::add(acc, V::load(row + p));
          typename V::R quad[4] = {acc, V::zero(), V::zero(), V::zero()};
          T sum[4] = {};
          V::add_sums4(quad, sum);
          g_total[f] += sum[0];
        }
      }
      const i64 used = kForm == Difference::centred ? pitch : lanes;
      for (i64 k = 0; k < padded_taps; k += kTaps) {
        for (i64 f = 0; f < sums_pitch; f += kFilters) {
          const T* weights[kFilters];
          T tail[kFilters][kTaps];
          for (i64 j = 0; j < kFilters; ++j) {
            const i64 filter = group * filters + min_i64(f + j, filters - 1);
            weights[j] = weight + filter * taps + first * window + k;
            if (kForm != Difference::centred && k + kTaps > own_taps) {
              for (i64 i = 0; i < kTaps; ++i) {
                tail[j][i] = k + i < own_taps ? weights[j][i] : T(0);
              }
              weights[j] = tail[j];
            }
          }
          add_weight_grad<V, kForm>(own.x.data() + k * pitch, own.g.data() + f * pitch, pitch, used,
                                    weights, total + k * sums_pitch + f, sums_pitch);
        }
      }
    }
  });

  // Filters in stretches: each row of sums is read by whole cache lines.
  constexpr i64 kStretch = 64 / sizeof(T);
  const i64 stretches = ceil_div(filters, kStretch);
  parallel(geo.groups * parts * stretches, threads, [&](int, i64 task) {
    const i64 begin = task % stretches * kStretch, end = min_i64(filters, begin + kStretch);
    const i64 part = task / stretches % parts, group = task / stretches / parts;
    const i64 first = part * task_channels * window;
    for (i64 k = first; k < min_i64(taps, first + task_channels * window); ++k) {
      for (i64 f = begin; f < end; ++f) {
        T sum = 0, g_sum = 0;
        for (i64 chunk = 0; chunk < chunks; ++chunk) {
          const i64 at = chunk * geo.groups + group;
          sum += sums[((at * parts + part) * part_taps + k - first) * sums_pitch + f];
          g_sum += g_sums[at * sums_pitch + f];
        }
        const i64 i = (group * filters + f) * taps + k;
        const T offset = weight[i] - centres[group * taps + k];
        out[i] = kForm == Difference::centred ? sum - offset * g_sum : sum;
      }
    }
  });
}

template <class V>
void weight_grad(const Geometry& geo, Rule rule, const typename V::T* g, const typename V::T* x,
                 const typename V::T* weight, typename V::T* out, int threads) {
  const i64 weights = geo.co * (geo.c / geo.groups) * geo.kh * geo.kw;
  if (geo.n == 0 || weights == 0) {
    for (i64 i = 0; i < weights; ++i) out[i] = 0;
    return;
  }
  if (rule == Rule::sign) {
    weight_grad_form<V, Difference::sign>(geo, g, x, weight, out, threads);
    return;
  }
  weight_grad_form<V, Difference::centred>(geo, g, x, weight, out, threads);
  if (!all_finite<V>(out, weights)) {
    weight_grad_form<V, Difference::plain>(geo, g, x, weight, out, threads);
  }
}

}  // namespace
}  // namespace mulfree::adder2d

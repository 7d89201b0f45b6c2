// Forward: out[n, co, oh, ow] = -sum_k |x_k - w_k|, k over (channel, kernel row, kernel column).
//
// Shaped like a matrix product. Lanes are output pixels: a task owns a block of pixels and of
// filters. For each block of taps it copies the channels it needs, and for each tile of kTile
// pixels packs a panel [taps][kTile] that every filter of the task then reads from L1. A
// micro-kernel holds kRows filters x kVecs vectors of accumulators over one block of taps; the
// sums of the blocks are added up in a scratch [tile][filter][kTile] in L2.
//
// Two micro-kernels compute s = sum |x - w|:
//   absolute  3 instructions a tap, for all values.
//   integer   2 instructions a tap (max, add), for x >= 0 and all values finite, from
//             s = 2 sum max(x, w) - sum x - sum w. Where x >= 0 the larger float is the larger
//             of the bit patterns read as signed integers (a negative w has a negative pattern),
//             and an integer maximum does not compete with the float additions for ports.
// The identity cancels where s is small beside its terms. With u = 2^-24 and n taps of a block,
// rounding leaves an error of about 0.5 u sqrt(n) (sum x + sum |w|) in a block; a block is used
// only while sum x + sum |w| <= kCondition * s holds at each pixel for one of the filters of the
// micro-kernel, which keeps the error below sqrt(K) eps max|y|. Otherwise it is computed again
// with `absolute`, and so is the rest of the task.
#pragma once

#include "_native/sliding/lowering.h"
#include "adder2d.h"

namespace mulfree::adder2d {
namespace {

using namespace sliding;

// See above; measured with inputs shifted from well to ill conditioned.
constexpr float kCondition = 2.5f;

// Operands of a micro-kernel: for step i the lanes of vector j at vectors[j] + steps[i].panel
// and the weights weight[steps[i].weight + row * weight_stride].
template <class T>
struct Operands {
  const T* const* vectors;
  const T* weight;
  i64 weight_stride;
  const Step* steps;
  i64 count;
};

// sums[row][lane] (+)= sum |x - w|. Micro-kernels are not inlined: each has all registers.
template <class V, int kRows, int kVecs>
[[gnu::noinline]] void add_absolute(const Operands<typename V::T>& in, bool fresh,
                                    typename V::T* sums, i64 pitch) {
  typename V::R acc[kRows][kVecs];
  const auto ones = V::ones();
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[i][j] = V::zero();
  }
  for (i64 k = 0; k < in.count; ++k) {
    const typename V::T* w = in.weight + in.steps[k].weight;
    typename V::R xs[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) xs[j] = V::load(in.vectors[j] + in.steps[k].panel);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto ws = V::set1(w[i * in.weight_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        acc[i][j] = V::add(acc[i][j], V::abs(V::subtract_on_fma(xs[j], ws, ones)));
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

// Sums over a block of taps that `add_integer` needs: per pixel of a tile, and per filter.
template <class T>
struct IntegerSums {
  const T* x;       // [lane] sum of x
  const T* w;       // [row] sum of w, added in the order of the steps
  const T* size_w;  // [row] sum of |w|
};

// As add_absolute by the integer maximum. Changes nothing and returns false where ill
// conditioned. All three sums are formed in the same order, so x = w gives exactly 0.
template <class V, int kRows, int kVecs>
[[gnu::noinline]] bool add_integer(const Operands<typename V::T>& in,
                                   const IntegerSums<typename V::T>& known, bool fresh,
                                   typename V::T* sums, i64 pitch) {
  typename V::R acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[i][j] = V::zero();
  }
  for (i64 k = 0; k < in.count; ++k) {
    const typename V::T* w = in.weight + in.steps[k].weight;
    typename V::R xs[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) xs[j] = V::load(in.vectors[j] + in.steps[k].panel);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto ws = V::set1(w[i * in.weight_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        acc[i][j] = V::add(acc[i][j], V::integer_max(xs[j], ws));
      }
    }
  }
  typename V::T size_w = 0;
  for (int i = 0; i < kRows; ++i) size_w = known.size_w[i] > size_w ? known.size_w[i] : size_w;
  const auto condition = V::set1(kCondition);
  bool good = true;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    const auto sum_x = V::load(known.x + j * V::kLanes);
    auto largest = V::zero();
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto both = V::add(sum_x, V::set1(known.w[i]));
      acc[i][j] = V::sub(V::add(acc[i][j], acc[i][j]), both);
      largest = V::max(largest, acc[i][j]);
    }
    good &= V::all_at_most(V::add(sum_x, V::set1(size_w)), V::mul(largest, condition));
  }
  if (!good) return false;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      typename V::T* dst = sums + i * pitch + j * V::kLanes;
      V::store(dst, fresh ? acc[i][j] : V::add(V::load(dst), acc[i][j]));
    }
  }
  return true;
}

// Taps of a block: whole channels where the window is small. Short enough for partial sums to
// stay small (blocked summation) and for a panel to stay in L1, long enough to make the adding
// up of the blocks cheap.
struct Depth {
  i64 taps, blocks;
  Depth(i64 channels, i64 channel_taps, i64 target) {
    const i64 total = channels * channel_taps;
    if (channel_taps <= target) {
      const i64 fit = target / channel_taps;
      taps = channel_taps * ceil_div(channels, max_i64(1, ceil_div(channels, fit)));
    } else {
      taps = ceil_div(channel_taps, ceil_div(channel_taps, target));
    }
    blocks = taps > 0 ? ceil_div(total, taps) : 0;
  }
};

// Splits `rows` filters so that a task's sums fit L2 and there are tasks for several threads,
// while packing a panel stays cheap beside its use. Depends on the geometry alone.
inline i64 rows_of_task(i64 rows, i64 lanes, i64 pixel_tasks, i64 row_unit, i64 value_size) {
  constexpr i64 kSumsBytes = 512 * 1024;
  const i64 fit = max_i64(row_unit, kSumsBytes / value_size / max_i64(1, lanes));
  i64 parts = ceil_div(rows, fit);
  while (pixel_tasks * parts < 8 && rows / (2 * parts) >= 128) parts *= 2;
  while (pixel_tasks * parts < 4 && rows / (2 * parts) >= 32) parts *= 2;
  return round_up(ceil_div(rows, parts), row_unit);
}

// Per (block of taps, filter): sum w and sum |w|. Returns whether all weights are finite.
template <class V>
bool sum_weights(const Geometry& geo, const typename V::T* weight, const Depth& depth,
                 typename V::T* sum, typename V::T* size, int threads) {
  using T = typename V::T;
  const i64 taps = geo.c / geo.groups * geo.kh * geo.kw;
  constexpr i64 kRows = 8;
  const i64 tasks = ceil_div(geo.co, kRows);
  Buffer<char> finite(tasks);
  parallel(tasks, threads, [&](int, i64 task) {
    bool good = true;
    const i64 begin = task * kRows, rows = min_i64(kRows, geo.co - begin);
    for (i64 b = 0; b < depth.blocks; ++b) {
      const i64 end = min_i64(taps, (b + 1) * depth.taps);
      // Eight independent chains hide the latency that the fixed order imposes.
      T sums[kRows] = {}, sizes[kRows] = {};
      for (i64 k = b * depth.taps; k < end; ++k) {
#pragma GCC unroll 8
        for (i64 i = 0; i < kRows; ++i) {
          const T w = weight[(begin + min_i64(i, rows - 1)) * taps + k];
          sums[i] += w;
          sizes[i] += w < 0 ? -w : w;
        }
      }
      for (i64 i = 0; i < rows; ++i) {
        good &= sizes[i] <= V::kLargest;
        sum[b * geo.co + begin + i] = sums[i];
        size[b * geo.co + begin + i] = sizes[i];
      }
    }
    finite[task] = good;
  });
  bool good = true;
  for (i64 task = 0; task < tasks; ++task) good &= finite[task] != 0;
  return good;
}

// Whether it is worth trying the integer kernel: no negative value among the first ones.
template <class T>
bool looks_non_negative(const T* x, i64 count) {
  bool good = true;
  for (i64 i = 0; i < min_i64(count, 1024); ++i) good &= x[i] >= 0;
  return good;
}

template <class V>
void forward(const Geometry& geo, const typename V::T* x, const typename V::T* weight,
             typename V::T* out, int threads) {
  using T = typename V::T;
  constexpr i64 L = V::kLanes, kTile = V::kForwardVecs * L;
  const i64 channels = geo.c / geo.groups, filters = geo.co / geo.groups;
  const i64 window = geo.kh * geo.kw, taps = channels * window;
  const i64 in_plane = geo.h * geo.w, out_plane = geo.ho * geo.wo;
  if (taps == 0) {
    for (i64 i = 0; i < geo.n * geo.co * out_plane; ++i) out[i] = 0;
    return;
  }
  if (geo.n == 0 || geo.co == 0) return;

  Axis rows, cols;
  make_window_axis(rows, geo.h, geo.ho, geo.kh, geo.sh, geo.ph, geo.dh);
  make_window_axis(cols, geo.w, geo.wo, geo.kw, geo.sw, geo.pw, geo.dw);
  const Blocks blocks(geo.n, geo.ho, geo.wo, 16 * kTile);
  // Several blocks even for few taps: the error of the identity grows with the partial sums.
  const Depth depth(channels, window, taps <= 144 ? 36 : taps <= 576 ? 72 : 144);
  const i64 task_filters = rows_of_task(filters, blocks.max_lanes(), blocks.count() * geo.groups,
                                        V::kForwardRows, sizeof(T));
  const i64 filter_parts = ceil_div(filters, task_filters);
  const i64 tasks = blocks.count() * geo.groups * filter_parts;

  Buffer<T> sum_w, size_w;
  bool integer = false;
  if constexpr (V::kIntegerMax) {
    if (looks_non_negative(x, geo.n * geo.c * in_plane)) {
      sum_w.reset(depth.blocks * geo.co), size_w.reset(depth.blocks * geo.co);
      integer = sum_weights<V>(geo, weight, depth, sum_w.data(), size_w.data(), threads);
    }
  }

  struct Scratch {
    Lowering<V> lowering;
    Buffer<T> panel, sums, sum_x;
    Buffer<Step> steps;
  };
  const int team = static_cast<int>(max_i64(1, min_i64(threads, tasks)));
  Workers<Scratch> scratch(team);
  for (int i = 0; i < team; ++i) {
    scratch[i].lowering.reserve(rows, cols, blocks, kTile, (depth.taps - 1) / window + 2);
    scratch[i].panel.reset(depth.taps * kTile + L);
    scratch[i].sums.reset(ceil_div(blocks.max_lanes(), kTile) * task_filters * kTile);
    scratch[i].sum_x.reset(kTile);
    scratch[i].steps.reset(depth.taps);
  }

  parallel(tasks, team, [&](int worker, i64 task) {
    Scratch& own = scratch[worker];
    const i64 part = task % filter_parts, group = task / filter_parts % geo.groups;
    const Block block = blocks[task / filter_parts / geo.groups];
    const i64 first = part * task_filters, count = min_i64(task_filters, filters - first);
    const i64 co = group * filters + first;
    Lowering<V>& lowering = own.lowering;
    lowering.start(block);
    bool conditioned = integer;
    for (i64 b = 0; b < depth.blocks; ++b) {
      const i64 begin = b * depth.taps, end = min_i64(taps, begin + depth.taps);
      const i64 channel = begin / window;
      const bool non_negative =
          lowering.copy(x + (group * channels + channel) * in_plane,
                        (end - 1) / window - channel + 1, in_plane, geo.c * in_plane);
      for (i64 k = begin; k < end; ++k) {
        own.steps[k - begin] = {0, k, lowering.tap_offset(k / window - channel, k % window)};
      }
      for (i64 t = 0; t < lowering.tiles(); ++t) {
        const T* vectors[V::kForwardVecs];
        lowering.operand(t, own.steps.data(), end - begin, own.panel.data(), vectors);
        const i64 lanes = lowering.tile_lanes(t);
        T* sums = own.sums.data() + t * task_filters * kTile;
        with_vectors<V::kForwardVecs>(ceil_div(lanes, L), [&](auto vecs) {
          constexpr int kVecs = decltype(vecs)::value;
          if constexpr (V::kIntegerMax) {
            if (conditioned && non_negative) {
              typename V::R acc[kVecs];
              for (int j = 0; j < kVecs; ++j) acc[j] = V::zero();
              for (i64 k = 0; k < end - begin; ++k) {
                for (int j = 0; j < kVecs; ++j) {
                  acc[j] = V::add(acc[j], V::load(vectors[j] + own.steps[k].panel));
                }
              }
              for (int j = 0; j < kVecs; ++j) V::store(own.sum_x.data() + j * L, acc[j]);
            }
          }
          for_row_blocks<V::kForwardRows>(count, [&](auto size, i64 row) {
            constexpr int kRows = decltype(size)::value;
            const Operands<T> in = {vectors, weight + (co + row) * taps, taps, own.steps.data(),
                                    end - begin};
            if constexpr (V::kIntegerMax) {
              if (conditioned && non_negative) {
                const i64 at = b * geo.co + co + row;
                conditioned = add_integer<V, kRows, kVecs>(
                    in, {own.sum_x.data(), sum_w.data() + at, size_w.data() + at}, b == 0,
                    sums + row * kTile, kTile);
                if (conditioned) return;
              }
            }
            add_absolute<V, kRows, kVecs>(in, b == 0, sums + row * kTile, kTile);
          });
        });
        if (b + 1 < depth.blocks) continue;
        for_each_stretch(block, {0, 0, 1, 1, geo.wo}, t * kTile, t * kTile + lanes,
                         [&](i64 lane, i64 length, i64 image, i64 offset) {
                           T* dst = out + (image * geo.co + co) * out_plane + offset;
                           for (i64 row = 0; row < count; ++row) {
                             const T* src = sums + row * kTile + lane;
                             for (i64 j = 0; j < length; j += L) {
                               V::store_first(dst + row * out_plane + j, min_i64(L, length - j),
                                              V::negate(V::load_first(src + j, length - j)));
                             }
                           }
                         });
      }
    }
  });
}

}  // namespace
}  // namespace mulfree::adder2d

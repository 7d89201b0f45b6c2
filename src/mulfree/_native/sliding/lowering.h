// im2col in blocks: which source elements a block of window positions ("lanes") reads, the copy
// of those rows with their zero padding, and the packing of panels for the micro-kernels.
//
// A source [channels, height, width] is copied row by row into a scratch in which the columns
// (and rows) of each stride phase are adjacent, so that for every tap of the window adjacent
// lanes of an output row read adjacent floats, whatever the stride.
#pragma once

#include "axes.h"
#include "support.h"

namespace mulfree::sliding {
namespace {

// The first n lanes of p[0], p[step], p[2 * step], ...; the others are 0.
template <class V>
inline typename V::R load_spaced(const typename V::T* p, i64 step, i64 n) {
  if (step == 1) return n >= V::kLanes ? V::load(p) : V::load_first(p, n);
  if (step == 2) return V::load_even(p, n);
  typename V::T lanes[V::kLanes] = {};
  for (i64 i = 0; i < min_i64(n, V::kLanes); ++i) lanes[i] = p[i * step];
  return V::load(lanes);
}

// Writes the first n lanes to p[0], p[step], p[2 * step], ...
template <class V>
inline void store_spaced(typename V::T* p, i64 step, i64 n, typename V::R v) {
  if (step == 1) return n >= V::kLanes ? V::store(p, v) : V::store_first(p, n, v);
  if (step == 2) return V::store_even(p, n, v);
  typename V::T lanes[V::kLanes];
  V::store(lanes, v);
  for (i64 i = 0; i < min_i64(n, V::kLanes); ++i) p[i * step] = lanes[i];
}

// Which of the values row[start + j * stride], 0 <= j < length, lie inside a row: those with
// lo <= j < hi. The others are padding.
struct Cut {
  i64 start, stride, length, lo, hi;

  Cut(i64 first, i64 step, i64 count, i64 width) : start(first), stride(step), length(count) {
    lo = start >= 0 ? 0 : min_i64(length, ceil_div(-start, stride));
    hi = start >= width ? lo : max_i64(lo, min_i64(length, (width - 1 - start) / stride + 1));
  }
};

// dst[j] = row[start + j * stride], 0 for padding. Writes up to a vector beyond the length. Adds
// +0, which turns -0 into +0. Returns whether all values are >= 0 and finite.
template <class V>
inline bool copy_row(const typename V::T* row, const Cut& cut, typename V::T* dst) {
  constexpr i64 L = V::kLanes;
  const auto zero = V::zero();
  bool good = true;
  for (i64 j = 0; j < cut.lo; j += L) V::store(dst + j, zero);
  for (i64 j = cut.lo; j < cut.hi; j += L) {
    const auto v =
        V::add(load_spaced<V>(row + cut.start + j * cut.stride, cut.stride, cut.hi - j), zero);
    good &= V::all_non_negative(v);
    V::store(dst + j, v);
  }
  for (i64 j = cut.hi; j < cut.length; j += L) V::store(dst + j, zero);
  return good;
}

// Lanes [lane, lane + length) of a tile, in the scratch from `offset` on.
struct Run {
  i64 lane, length, offset;
};

// One summand of a micro-kernel: where its lanes, its weights and its scratch begin.
struct Step {
  i64 panel, weight, source;
};

// The lowered view of one block: the copied rows of some channels and the runs of every tile.
template <class V>
class Lowering {
 public:
  using T = typename V::T;

  // Room for blocks of `blocks` in tiles of `tile` lanes with `channels` channels at a time.
  void reserve(const Axis& rows, const Axis& cols, const Blocks& blocks, i64 tile, i64 channels) {
    rows_ = &rows, cols_ = &cols, tile_ = tile;
    const i64 height = size_product(rows.slots, rows.length(blocks.block_rows));
    const i64 width = size_product(cols.slots, cols.length(blocks.block_cols));
    const i64 image = size_product(height, width);
    scratch_.reset(size_product(size_product(image, blocks.block_images), channels) +
                   2 * V::kLanes);
    const i64 tiles = ceil_div(blocks.max_lanes(), tile);
    runs_.reset(tiles * tile);
    first_.reset(tiles + 1);
    taps_.reset(rows.taps * cols.taps);
    cuts_.reset(cols.slots);
  }

  void start(const Block& block) {
    block_ = block;
    pitch_ = cols_->slots * cols_->length(block.cols);
    image_pitch_ = rows_->slots * rows_->length(block.rows) * pitch_;
    channel_pitch_ = block.images * image_pitch_;
    for (i64 r = 0; r < rows_->taps; ++r) {
      for (i64 c = 0; c < cols_->taps; ++c) {
        taps_[r * cols_->taps + c] =
            (rows_->slot[r] * rows_->length(block.rows) + rows_->index[r]) * pitch_ +
            cols_->slot[c] * cols_->length(block.cols) + cols_->index[c];
      }
    }
    const i64 left = cols_->origin + block.col * cols_->stride;
    for (i64 s = 0; s < cols_->slots; ++s) {
      cuts_[s] =
          Cut(left + cols_->phase[s], cols_->stride, cols_->length(block.cols), cols_->source);
    }
    list_runs();
  }

  i64 lanes() const { return block_.lanes(); }
  i64 tiles() const { return ceil_div(lanes(), tile_); }
  i64 tile_lanes(i64 t) const { return min_i64(tile_, lanes() - t * tile_); }
  i64 channel_taps() const { return rows_->taps * cols_->taps; }

  // Copies channels [0, count) at `source` with distance `plane`; images are `image` apart.
  // Returns whether all values are >= 0 and finite.
  bool copy(const T* source, i64 count, i64 plane, i64 image) {
    bool good = true;
    T* dst = scratch_.data();
    const i64 height = rows_->length(block_.rows), width = cols_->length(block_.cols);
    const i64 top = rows_->origin + block_.row * rows_->stride;
    for (i64 channel = 0; channel < count; ++channel) {
      for (i64 n = 0; n < block_.images; ++n) {
        const T* src = source + channel * plane + (block_.image + n) * image;
        for (i64 slot = 0; slot < rows_->slots; ++slot) {
          i64 row = top + rows_->phase[slot];
          for (i64 r = 0; r < height; ++r, row += rows_->stride) {
            if (row < 0 || row >= rows_->source) {
              for (i64 j = 0; j < pitch_; j += V::kLanes) V::store(dst + j, V::zero());
              dst += pitch_;
              continue;
            }
            for (i64 s = 0; s < cols_->slots; ++s, dst += width) {
              good &= copy_row<V>(src + row * cols_->source, cuts_[s], dst);
            }
          }
        }
      }
    }
    return good;
  }

  // Offset of tap `t` of copied channel `channel`.
  i64 tap_offset(i64 channel, i64 t) const { return channel * channel_pitch_ + taps_[t]; }

  // Prepares the operand of tile `t`: sets the offset of each step in it, and for each vector
  // where its lanes begin. A tile whose vectors are adjacent floats of the scratch is read in
  // place, any other is packed into `panel`, as below.
  void operand(i64 t, Step* steps, i64 count, T* panel, const T** vectors) const {
    constexpr i64 L = V::kLanes;
    const Run* begin = runs_.data() + first_[t];
    const Run* end = runs_.data() + first_[t + 1];
    bool direct = true;
    for (const Run* run = begin; run < end; ++run) direct &= run->length % L == 0;
    if (direct) {
      for (i64 k = 0; k < count; ++k) steps[k].panel = steps[k].source;
      for (const Run* run = begin; run < end; ++run) {
        for (i64 j = 0; j < run->length; j += L) {
          vectors[(run->lane + j) / L] = scratch_.data() + run->offset + j;
        }
      }
      return;
    }
    for (i64 j = 0; j < tile_; j += L) vectors[j / L] = panel + j;
    for (i64 k = 0; k < count; ++k) steps[k].panel = k * tile_;
    pack(t, steps, count, panel, tile_);
  }

  // Packs the lanes of tile `t` for each step into rows of `pitch`. Lanes up to a multiple of
  // the vector are zero; writes up to a vector beyond the last row.
  void pack(i64 t, const Step* steps, i64 count, T* panel, i64 pitch) const {
    constexpr i64 L = V::kLanes;
    const Run* begin = runs_.data() + first_[t];
    const Run* end = runs_.data() + first_[t + 1];
    const i64 lanes = tile_lanes(t);
    for (i64 k = 0; k < count; ++k) {
      const T* src = scratch_.data() + steps[k].source;
      T* dst = panel + k * pitch;
      for (const Run* run = begin; run < end; ++run) {
        for (i64 j = 0; j < run->length; j += L) {
          V::store(dst + run->lane + j, V::load(src + run->offset + j));
        }
      }
      if (lanes % L != 0) V::store(dst + lanes, V::zero());
    }
  }

 private:
  void list_runs() {
    i64 count = 0;
    for (i64 t = 0; t < tiles(); ++t) {
      first_[t] = count;
      const i64 end = tile_lanes(t);
      for (i64 lane = 0; lane < end;) {
        const i64 p = t * tile_ + lane;
        const i64 n = p / (block_.rows * block_.cols), r = p / block_.cols % block_.rows;
        const i64 c = p % block_.cols;
        const i64 offset = n * image_pitch_ + r * pitch_ + c;
        const i64 length = min_i64(block_.cols - c, end - lane);
        const bool joins =
            count > first_[t] && runs_[count - 1].offset + runs_[count - 1].length == offset;
        if (joins) {
          runs_[count - 1].length += length;
        } else {
          runs_[count++] = {lane, length, offset};
        }
        lane += length;
      }
    }
    first_[tiles()] = count;
  }

  const Axis* rows_ = nullptr;
  const Axis* cols_ = nullptr;
  i64 tile_ = 0;
  Block block_{};
  i64 pitch_ = 0, image_pitch_ = 0, channel_pitch_ = 0;
  Buffer<T> scratch_;
  Buffer<Run> runs_;
  Buffer<Cut> cuts_;
  Buffer<i64> first_, taps_;
};

// Returns true if no value is infinite or NaN.
template <class V>
bool all_finite(const typename V::T* p, i64 count) {
  auto acc = V::zero();
  for (i64 i = 0; i < count; i += V::kLanes) {
    acc = V::fma(load_spaced<V>(p + i, 1, count - i), V::zero(), acc);
  }
  return V::all_zero(acc);
}

// Calls body(lane, length, image, offset) for the stretches of lanes [begin, end) of a block
// that are evenly spaced in one plane of a tensor: lane (row, col) of the grid lies at
// (top + row * row_step) * width + left + col * col_step.
struct Plane {
  i64 top, left, row_step, col_step, width;
};

template <class Body>
void for_each_stretch(const Block& block, const Plane& plane, i64 begin, i64 end,
                      const Body& body) {
  // Whole adjacent rows form one stretch.
  const bool joined = plane.row_step * plane.width == block.cols * plane.col_step;
  const i64 row_lanes = joined ? block.rows * block.cols : block.cols;
  for (i64 p = begin; p < end;) {
    const i64 n = p / (block.rows * block.cols), in_image = p % (block.rows * block.cols);
    const i64 r = in_image / block.cols, c = in_image % block.cols;
    const i64 rest = joined ? row_lanes - in_image : row_lanes - c;
    const i64 length = min_i64(rest, end - p);
    const i64 offset = (plane.top + (block.row + r) * plane.row_step) * plane.width + plane.left +
                       (block.col + c) * plane.col_step;
    body(p - begin, length, block.image + n, offset);
    p += length;
  }
}

}  // namespace
}  // namespace mulfree::sliding

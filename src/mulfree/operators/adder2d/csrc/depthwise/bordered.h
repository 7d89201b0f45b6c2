// Rows of vectors of channels with their padding, the phases of the stride apart: a tap of the
// window is an offset into them.
#pragma once

#include "geometry.h"

namespace mulfree::adder2d {
namespace {

constexpr i64 kMaxLastStride = 4;

// Of a plane of vectors: row i of phase a is source row i * phases + a - origin; columns likewise.
struct LastLayout {
  i64 height = 0, width = 0, channels = 0;
  i64 row_phases = 1, row_origin = 0, row_span = 0;
  i64 col_phases = 1, col_origin = 0, col_span = 0;
  i64 pitch = 0;

  void set_pitch(i64 positions) {
    pitch = max_i64(positions + col_span, (width + col_origin) / col_phases + 1);
  }
  // Vectors for `rows` rows of windows.
  i64 vectors(i64 rows) const { return row_phases * col_phases * (rows + row_span) * pitch; }

  // Rows of a band, of `total` in all: the rows that a window meets stay in L1, and all that a task
  // reads and writes in L2. `bytes`: size of a vector, or of all vectors beside one.
  i64 band(i64 total, i64 bytes) const {
    constexpr i64 kBytes = 32 * 1024;
    const i64 row = row_phases * col_phases * pitch;
    const i64 fit = max_i64(1, kBytes / bytes / row - row_span);
    return ceil_div(total, ceil_div(total, fit));
  }
};

inline LastLayout last_window_layout(const Geometry& geo) {
  LastLayout layout;
  layout.height = geo.h, layout.width = geo.w, layout.channels = geo.c;
  layout.row_phases = geo.sh, layout.row_origin = geo.ph;
  layout.row_span = (geo.kh - 1) * geo.dh / geo.sh;
  layout.col_phases = geo.sw, layout.col_origin = geo.pw;
  layout.col_span = (geo.kw - 1) * geo.dw / geo.sw;
  layout.set_pitch(geo.wo);
  return layout;
}

struct LastGradLayout : LastLayout {
  PixelAxis rows, cols;

  explicit LastGradLayout(const Geometry& geo)
      : rows(geo.sh, geo.ph, geo.dh, geo.kh), cols(geo.sw, geo.pw, geo.dw, geo.kw) {
    height = geo.ho, width = geo.wo, channels = geo.c;
    row_origin = -rows.lowest, row_span = rows.highest - rows.lowest;
    col_origin = -cols.lowest, col_span = cols.highest - cols.lowest;
    set_pitch(ceil_div(geo.w, geo.sw));
  }
};

// Whether there are whole vectors of channels, and rows that stay in cache.
template <class V>
bool takes_channels_last(const Geometry& geo) {
  constexpr i64 kMaxVectors = 1 << 12;
  if (!has_filter_per_channel(geo) || geo.c % V::kLanes != 0) return false;
  if (geo.sh > kMaxLastStride || geo.sw > kMaxLastStride) return false;
  return last_window_layout(geo).vectors(1) <= kMaxVectors &&
         LastGradLayout(geo).vectors(1) <= kMaxVectors;
}

template <class V>
class Bordered {
 public:
  using T = typename V::T;

  void reserve(const LastLayout& layout, i64 rows) {
    layout_ = layout;
    plane_ = (rows + layout.row_span) * layout.pitch;
    data_.reset(layout.vectors(rows) * L);
    for (i64 b = 0; b < layout.col_phases; ++b) {
      const i64 origin = layout.col_origin - b,
                stop = ceil_div(layout.width + origin, layout.col_phases);
      lo_[b] = min_i64(layout.pitch, ceil_div(max_i64(0, origin), layout.col_phases));
      hi_[b] = max_i64(lo_[b], min_i64(layout.pitch, stop));
    }
  }

  const T* data() const { return data_.data(); }

  i64 offset(i64 row_phase, i64 col_phase, i64 row, i64 col) const {
    return ((row_phase * layout_.col_phases + col_phase) * plane_ + row * layout_.pitch + col) * L;
  }

  // Rows [begin, begin + rows) of windows and those that their taps reach, less `centre`.
  void copy(const T* source, i64 begin, i64 rows, typename V::R centre) {
    const auto padding = V::sub(V::zero(), centre);
    for (i64 a = 0; a < layout_.row_phases; ++a) {
      for (i64 i = 0; i < rows + layout_.row_span; ++i) {
        const i64 row = (begin + i) * layout_.row_phases + a - layout_.row_origin;
        const bool inside = row >= 0 && row < layout_.height;
        for (i64 b = 0; b < layout_.col_phases; ++b) {
          const i64 lo = inside ? lo_[b] : layout_.pitch, hi = inside ? hi_[b] : layout_.pitch;
          T* dst = data_.data() + offset(a, b, i, 0);
          for (i64 m = 0; m < lo; ++m) V::store(dst + m * L, padding);
          const i64 step = layout_.col_phases * layout_.channels;
          const T* src = source + (row * layout_.width + b - layout_.col_origin) * layout_.channels;
          for (i64 m = lo; m < hi; ++m) {
            V::store(dst + m * L, V::sub(V::load(src + m * step), centre));
          }
          for (i64 m = hi; m < layout_.pitch; ++m) V::store(dst + m * L, padding);
        }
      }
    }
  }

 private:
  static constexpr i64 L = V::kLanes;
  LastLayout layout_;
  i64 plane_ = 0;
  i64 lo_[kMaxLastStride] = {}, hi_[kMaxLastStride] = {};  // columns of a phase within the source
  Buffer<T> data_;
};

// Offset of every tap in rows of `last_window_layout`.
template <class V>
void last_window_offsets(const Geometry& geo, const Bordered<V>& rows, i64* offsets) {
  for (i64 k = 0; k < geo.kh * geo.kw; ++k) {
    const i64 down = k / geo.kw * geo.dh, right = k % geo.kw * geo.dw;
    offsets[k] = rows.offset(down % geo.sh, right % geo.sw, down / geo.sh, right / geo.sw);
  }
}

}  // namespace
}  // namespace mulfree::adder2d

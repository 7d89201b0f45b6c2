// Planes of an image laid out so that a tap of a depthwise window is an offset.
//
// A row of the source has its zero padding beside it, and rows follow each other at one pitch: the
// values that a tap meets in adjacent windows are adjacent, across the ends of rows too. A kernel
// so runs over a band of rows as over one line, in whole vectors, without masks and whatever the
// width; the lanes between two rows are computed for nothing. The padding to the right of a row is
// the padding to the left of the next one.
#pragma once

#include "_native/sliding/support.h"

namespace mulfree::adder2d {
namespace {

using namespace sliding;

// dst[i] = src[i] - centre for n values, in vectors of kBytes or less; the last two overlap.
template <int kBytes, class T>
inline void copy_values(T* dst, const T* src, i64 n, T centre) {
  typedef T Vector __attribute__((vector_size(kBytes)));
  constexpr i64 kCount = kBytes / static_cast<i64>(sizeof(T));
  const auto copy = [&](i64 i) {
    Vector v;
    __builtin_memcpy(&v, src + i, sizeof v);
    v -= centre;
    __builtin_memcpy(dst + i, &v, sizeof v);
  };
  if (n >= kCount) {
    for (i64 i = 0; i + kCount < n; i += kCount) copy(i);
    copy(n - kCount);
  } else if constexpr (kBytes > 16) {
    copy_values<kBytes / 2>(dst, src, n, centre);
  } else {
    for (i64 i = 0; i < n; ++i) dst[i] = src[i] - centre;
  }
}

// The columns of a row: as they are; even and odd ones apart, for windows of stride 2; or each
// one twice, and beside that followed by a 0, for the gradients of such windows.
enum class Columns { plain, split, doubled };

struct FlatLayout {
  i64 height = 0, width = 0;  // of a source plane
  // Row i of phase a is source row i * phases + a - origin.
  i64 phases = 1, origin = 0;
  Columns columns = Columns::plain;
  // Copies of a row: of `split`, even columns are in copy `even`, from `first[0]` on, and odd
  // ones in the other, from `first[1]` on.
  i64 copies = 1, even = 0;
  i64 first[2] = {0, 0};
  i64 pitch = 0;
  i64 span_rows = 0, span_cols = 0;  // largest offset of a tap

  // Values of one copy of `rows` rows of windows, with what the last vectors read beyond.
  i64 plane(i64 rows, i64 lanes) const {
    return (rows + span_rows) * pitch + span_cols + 2 * lanes;
  }
  i64 values(i64 rows, i64 lanes) const { return phases * copies * plane(rows, lanes); }

  // Rows of a band, of `total` in all: as many as stay in L1 beside what a kernel reads and writes.
  i64 band(i64 total, i64 lanes, i64 value_size) const {
    constexpr i64 kBytes = 24 * 1024;
    const i64 row = phases * copies * pitch;
    const i64 fit = max_i64(1, (kBytes / value_size - values(0, lanes)) / row);
    return ceil_div(total, ceil_div(total, fit));
  }

  // Sets the pitch: a row, and the zeros that a window of `lanes` positions reads beyond it
  // where the next row does not begin with them.
  void set_pitch(i64 lanes) {
    const i64 counts[2] = {columns == Columns::plain     ? width
                           : columns == Columns::doubled ? 2 * width
                                                         : (width + 1) / 2,
                           columns == Columns::split ? width / 2 : 2 * width};
    pitch = lanes;
    for (i64 i = 0; i < copies; ++i) {
      const i64 zeros = first[columns == Columns::split ? i : 0];
      pitch = max_i64(pitch, max_i64(zeros + counts[i], lanes + span_cols - zeros));
    }
    if (columns == Columns::doubled) pitch = round_up(pitch, 2);
  }
};

template <class V>
class Flat {
 public:
  using T = typename V::T;

  // For bands of at most `rows` rows of windows, of `total` in all.
  void reserve(const FlatLayout& layout, i64 rows, i64 total) {
    layout_ = layout;
    one_band_ = rows == total;
    plane_ = layout.plane(rows, V::kLanes);
    data_.reset(layout.values(rows, V::kLanes));
    row_.reset(round_up(layout.width, 2 * V::kLanes));
    for (i64 i = 0; i < round_up(layout.width, 2 * V::kLanes); ++i) row_[i] = 0;
    clear(0);
  }

  // Padding of value -centre everywhere.
  void clear(T centre) {
    const i64 values = layout_.phases * layout_.copies * plane_;
    for (i64 i = 0; i < values; ++i) data_[i] = -centre;
  }

  const T* data() const { return data_.data(); }

  i64 offset(i64 phase, i64 copy, i64 row, i64 col) const {
    return (phase * layout_.copies + copy) * plane_ + row * layout_.pitch + col;
  }

  // Rows [begin, end) of windows and those that their taps reach, less `centre`.
  void copy(const T* source, i64 begin, i64 end, T centre) {
    for (i64 phase = 0; phase < layout_.phases; ++phase) {
      for (i64 i = 0; i < end - begin + layout_.span_rows; ++i) {
        const i64 row = (begin + i) * layout_.phases + phase - layout_.origin;
        T* dst = data_.data() + offset(phase, 0, i, 0);
        if (row < 0 || row >= layout_.height) {
          // Rows of padding stay it where they are the same in every plane.
          for (i64 c = one_band_ ? layout_.copies : 0; c < layout_.copies; ++c) {
            for (i64 j = 0; j < layout_.pitch; ++j) dst[c * plane_ + j] = -centre;
          }
        } else {
          copy_row(dst, source + row * layout_.width, centre);
        }
      }
    }
  }

 private:
  static constexpr i64 L = V::kLanes;

  void copy_row(T* dst, const T* src, T centre) {
    const i64 width = layout_.width;
    if (layout_.columns == Columns::plain) {
      return copy_values<sizeof(typename V::R)>(dst + layout_.first[0], src, width, centre);
    }
    // Whole vectors below write padding beyond the row, before the next row is written.
    if (width % (2 * L) != 0) {
      copy_values<sizeof(typename V::R)>(row_.data(), src, width, T(0));
      src = row_.data();
    }
    if (layout_.columns == Columns::split) {
      T* even = dst + layout_.even * plane_ + layout_.first[0];
      T* odd = dst + (1 - layout_.even) * plane_ + layout_.first[1];
      const auto less = V::set1(centre);
      for (i64 j = 0; j < width; j += 2 * L, even += L, odd += L) {
        const auto pair = V::split(V::load(src + j), V::load(src + j + L));
        V::store(even, V::sub(pair.first, less));
        V::store(odd, V::sub(pair.second, less));
      }
    } else {
      T* twice = dst + layout_.first[0];
      for (i64 j = 0; j < width; j += L, twice += 2 * L) {
        const auto v = V::load(src + j);
        const auto both = V::merge(v, v), spaced = V::merge(v, V::zero());
        V::store(twice, both.first), V::store(twice + L, both.second);
        V::store(twice + plane_, spaced.first), V::store(twice + plane_ + L, spaced.second);
      }
    }
  }

  FlatLayout layout_;
  bool one_band_ = false;
  i64 plane_ = 0;
  Buffer<T> data_, row_;
};

}  // namespace
}  // namespace mulfree::adder2d

// Geometry of depthwise convolutions by adders: a filter and a window of its own for each channel.
//
// There is nothing to share between filters and so nothing to pack: a plane is laid out flat, and
// every tap of the window is an offset into it. Rows that are whole vectors are read and written in
// place; others go through flat rows too. A task owns planes, so no result depends on the number of
// threads.
#pragma once

#include "../adder2d.h"
#include "flat.h"

namespace mulfree::adder2d {
namespace {

// body(Int<N>{}, first vector) over [0, vectors) in even tiles of at most kMax vectors.
template <int kMax, class Body>
inline void for_even_tiles(i64 vectors, const Body& body) {
  const i64 tiles = ceil_div(vectors, kMax);
  for (i64 t = 0; t < tiles; ++t) {
    const i64 begin = t * vectors / tiles, end = (t + 1) * vectors / tiles;
    with_vectors<kMax>(end - begin, [&](auto size) { body(size, begin); });
  }
}

// Planes of a task: some 2^16 taps.
inline i64 planes_of_task(const Geometry& geo) {
  return max_i64(1, (1 << 16) / max_i64(1, geo.ho * geo.wo * geo.kh * geo.kw));
}

// True for rows that kernels read and write in place.
template <class V>
inline bool in_place(i64 width) {
  return width % V::kLanes == 0 && width >= 4 * V::kLanes;
}

inline FlatLayout window_layout(const Geometry& geo) {
  FlatLayout layout;
  layout.height = geo.h, layout.width = geo.w;
  layout.phases = geo.sh, layout.origin = geo.ph;
  layout.span_rows = (geo.kh - 1) * geo.dh / geo.sh;
  layout.span_cols = (geo.kw - 1) * geo.dw / geo.sw;
  layout.first[0] = geo.pw;
  if (geo.sw == 2) {
    layout.columns = Columns::split;
    layout.copies = 2, layout.even = geo.pw % 2;
    layout.first[0] = geo.pw / 2, layout.first[1] = (geo.pw + 1) / 2;
  }
  layout.set_pitch(geo.wo);
  return layout;
}

// Offset of every tap in planes of `window_layout`.
template <class V>
void window_offsets(const Geometry& geo, const Flat<V>& flat, i64* offsets) {
  for (i64 u = 0; u < geo.kh; ++u) {
    for (i64 v = 0; v < geo.kw; ++v) {
      *offsets++ = flat.offset(u * geo.dh % geo.sh, geo.sw == 2 ? v % 2 : 0, u * geo.dh / geo.sh,
                               v * geo.dw / geo.sw);
    }
  }
}

// The input gradient's layout of the gradient of the output: input row a + i * sh of phase a meets,
// at tap u, output row i + (a + ph - u * dh) / sh where that divides.
struct GradLayout : FlatLayout {
  i64 reach = 0;   // taps of a row of windows that a pixel meets
  i64 lowest = 0;  // least of the offsets of rows

  explicit GradLayout(const Geometry& geo) {
    i64 highest = 0;
    bool any = false;
    for (i64 a = 0; a < geo.sh; ++a) {
      for (i64 u = 0; u < geo.kh; ++u) {
        if ((a + geo.ph - u * geo.dh) % geo.sh != 0) continue;
        const i64 row = (a + geo.ph - u * geo.dh) / geo.sh;
        lowest = any ? min_i64(lowest, row) : row;
        highest = any ? max_i64(highest, row) : row;
        any = true;
      }
    }
    height = geo.ho, width = geo.wo;
    origin = -lowest;
    span_rows = highest - lowest;
    reach = geo.sw == 2 ? (geo.kw + 1) / 2 : geo.kw;
    span_cols = geo.sw == 2 ? 2 * (reach - 1) : (geo.kw - 1) * geo.dw;
    first[0] = span_cols - geo.pw;
    if (geo.sw == 2) columns = Columns::doubled, copies = 2;
    set_pitch(geo.w);
  }
};

// Whether a geometry is depthwise, and small enough for its rows to stay in L1.
template <class V>
bool is_depthwise(const Geometry& geo) {
  constexpr i64 kMaxValues = 1 << 14, kMaxExtent = 1 << 13, kMaxTaps = 128;
  const auto small = [](i64 extent) { return extent < kMaxExtent; };
  if (geo.groups != geo.c || geo.co != geo.c || geo.n * geo.c * geo.h * geo.w == 0) return false;
  if (geo.sh > 2 || geo.sw > 2 || (geo.sw == 2 && geo.dw > 1)) return false;
  if (!small(geo.kh) || !small(geo.kw) || !small(geo.dh) || !small(geo.dw) || !small(geo.ph) ||
      !small(geo.pw) || !small(geo.w) || geo.kh * geo.kw > kMaxTaps) {
    return false;
  }
  const GradLayout grads(geo);
  return grads.first[0] >= 0 && grads.values(1, V::kLanes) <= kMaxValues &&
         window_layout(geo).values(1, V::kLanes) <= kMaxValues;
}

}  // namespace
}  // namespace mulfree::adder2d

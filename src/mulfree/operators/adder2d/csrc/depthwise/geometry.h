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
  if (vectors == 0) return;
  const i64 tiles = ceil_div(vectors, kMax), size = vectors / tiles, larger = vectors % tiles;
  for (i64 t = 0, begin = 0; t < tiles; ++t) {
    const i64 count = size + (t < larger ? 1 : 0);
    with_vectors<kMax>(count, [&](auto tile) { body(tile, begin); });
    begin += count;
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

// Pixel a + i * stride of an axis meets, at tap t, window i + (a + padding - t * dilation) / stride
// where that divides.
struct PixelAxis {
  i64 stride, padding, dilation, lowest = 0, highest = 0;

  PixelAxis(i64 s, i64 p, i64 d, i64 kernel) : stride(s), padding(p), dilation(d) {
    bool any = false;
    for (i64 a = 0; a < stride; ++a) {
      for (i64 t = 0; t < kernel; ++t) {
        if (!meets(a, t)) continue;
        lowest = any ? min_i64(lowest, window(a, t)) : window(a, t);
        highest = any ? max_i64(highest, window(a, t)) : window(a, t);
        any = true;
      }
    }
  }
  bool meets(i64 a, i64 t) const { return (a + padding - t * dilation) % stride == 0; }
  i64 window(i64 a, i64 t) const { return (a + padding - t * dilation) / stride; }
};

// The input gradient's layout of the gradient of the output.
struct GradLayout : FlatLayout {
  PixelAxis rows;
  i64 reach = 0;  // taps of a row of windows that a pixel meets

  explicit GradLayout(const Geometry& geo) : rows(geo.sh, geo.ph, geo.dh, geo.kh) {
    height = geo.ho, width = geo.wo;
    origin = -rows.lowest;
    span_rows = rows.highest - rows.lowest;
    reach = geo.sw == 2 ? (geo.kw + 1) / 2 : geo.kw;
    span_cols = geo.sw == 2 ? 2 * (reach - 1) : (geo.kw - 1) * geo.dw;
    first[0] = span_cols - geo.pw;
    if (geo.sw == 2) columns = Columns::doubled, copies = 2;
    set_pitch(geo.w);
  }
};

// Whether there is one filter for each channel, of sizes whose products are no concern.
inline bool has_filter_per_channel(const Geometry& geo) {
  constexpr i64 kMaxExtent = 1 << 13, kMaxTaps = 128;
  // One channel is an ordinary layer, too, and keeps the sums of one.
  if (geo.groups == 1 || geo.groups != geo.c || geo.co != geo.c ||
      geo.n * geo.c * geo.h * geo.w == 0)
    return false;
  const i64 extents[] = {geo.kh, geo.kw, geo.dh, geo.dw, geo.ph, geo.pw, geo.w};
  for (const i64 extent : extents) {
    if (extent >= kMaxExtent) return false;
  }
  return geo.kh * geo.kw <= kMaxTaps;
}

// Whether a geometry is depthwise, with rows that stay in L1.
template <class V>
bool is_depthwise(const Geometry& geo) {
  constexpr i64 kMaxValues = 1 << 14;
  if (!has_filter_per_channel(geo)) return false;
  if (geo.sh > 2 || geo.sw > 2 || (geo.sw == 2 && geo.dw > 1)) return false;
  const GradLayout grads(geo);
  return grads.first[0] >= 0 && grads.values(1, V::kLanes) <= kMaxValues &&
         window_layout(geo).values(1, V::kLanes) <= kMaxValues;
}

}  // namespace
}  // namespace mulfree::adder2d

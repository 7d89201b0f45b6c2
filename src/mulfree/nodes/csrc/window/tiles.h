// The loops of the integer window kernels, for the traits of one instruction set.
//
// Lanes are filters: a few bytes of one pixel are broadcast to all lanes and meet as many weights
// of each filter, so sums need no horizontal step. A tile holds kPixels x kBlocks vectors of sums
// in registers for the whole window; K is walked in contiguous runs (a kernel row times the
// channels), which a border around the image makes valid everywhere.
//
// Traits `Tap` of an op: kLanes, kGroup, kStepBytes as in Format; kBlocks, kSums (vectors of sums
// that fit the registers); kMasksTail (the bytes of K after a run's end must read as 0; else
// their weights, which are 0, make them harmless); Sum, X, W and zero, broadcast, broadcast_first,
// load, tap, place; Extra and extras (one of each pixel's window), which `store` gets.
#pragma once

#include "_native/sliding/support.h"
#include "kernels.h"

namespace mulfree::nodes {
namespace {

using sliding::ceil_div;
using sliding::max_i64;
using sliding::min_i64;

// More pixels need more pointers than there are registers.
constexpr i64 kMaxPixels = 8;

inline int requantise_one(const Epilogue& e, i64 filter, i32 sum, int residual) {
  const i64 v =
      i64{sum} * e.multiplier[filter] + e.offset[filter] + i64{e.residual_multiplier} * residual;
  return static_cast<int>(max_i64(e.low, min_i64(e.high, v >> e.shift)));
}

// For sums without an extra term.
struct NoExtras {
  struct Extra {};
  template <int kPixels>
  static void extras(const KernelLayer&, const u8* const*, Extra*) {}
};

// A step of K prefetches one cache line, or less where it reads less itself.
template <class Tap, int kBlocks>
constexpr i64 kPrefetchBytes = kBlocks * Tap::kStepBytes < 64 ? kBlocks * Tap::kStepBytes : 64;

// Sums of kPixels x kBlocks vectors, to sums[pixel][kBlocks * kLanes].
template <class Tap, int kBlocks, int kPixels>
[[gnu::noinline]] void tile(const KernelLayer& layer, const FilterTile& filter_tile,
                            const u8* const* windows, const u8* prefetch, i32* sums) {
  typename Tap::Sum acc[kPixels][kBlocks];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) acc[p][b] = Tap::zero();
  }
  const u8* weights = filter_tile.weights;
  const i64 bytes = layer.run_bytes;
  const i64 whole = Tap::kMasksTail ? bytes - bytes % Tap::kGroup : bytes;
  for (i64 run = 0; run < layer.runs; ++run) {
    const i64 offset = layer.run_offsets[run];
    const u8* x[kPixels];
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) x[p] = windows[p] + offset;
    for (i64 i = 0; i < whole; i += Tap::kGroup) {
      typename Tap::W w[kBlocks];
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) w[b] = Tap::load(weights + b * Tap::kStepBytes);
      weights += kBlocks * Tap::kStepBytes;
      __builtin_prefetch(prefetch, 0, 2);
      prefetch += kPrefetchBytes<Tap, kBlocks>;
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        const typename Tap::X v = Tap::broadcast(x[p] + i);
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) acc[p][b] = Tap::tap(acc[p][b], v, w[b]);
      }
    }
    if (Tap::kMasksTail && whole < bytes) {
#pragma GCC unroll 8
      for (int p = 0; p < kPixels; ++p) {
        const typename Tap::X v = Tap::broadcast_first(x[p] + whole, bytes - whole);
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) {
          acc[p][b] = Tap::tap(acc[p][b], v, Tap::load(weights + b * Tap::kStepBytes));
        }
      }
      weights += kBlocks * Tap::kStepBytes;
    }
  }
  typename Tap::Extra extra[kPixels];
  Tap::template extras<kPixels>(layer, windows, extra);
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      const i64 lane = b * Tap::kLanes;
      Tap::store(sums + p * kBlocks * Tap::kLanes + lane, acc[p][b], extra[p],
                 filter_tile.bias + lane);
    }
  }
}

// Position of an output pixel.
struct Place {
  i64 row, column;
};

inline void next(Place& place, i64 wo) {
  if (++place.column == wo) ++place.row, place.column = 0;
}

// Results of some pixels: sums[pixel * pitch + filter], written bare or through the epilogue.
struct Results {
  i64 pixels;
  const i32* sums;
  i64 pitch;
  u8* y[kMaxPixels];
  const u8* residual[kMaxPixels];  // if any
};

template <class Isa>
void write(const KernelLayer& layer, const Image& image, const FilterTile& filter_tile,
           const Place* places, i64 pixels, const i32* sums, i64 pitch) {
  if (image.y == nullptr) {
    for (i64 p = 0; p < pixels; ++p) {
      const i64 pixel = places[p].row * layer.wo + places[p].column;
      i32* const out = image.sums + pixel * layer.filters + filter_tile.filter;
      for (i64 t = 0; t < filter_tile.filters; ++t) out[t] = sums[p * pitch + t];
    }
    return;
  }
  Results results;
  results.pixels = pixels;
  results.sums = sums;
  results.pitch = pitch;
  const bool residual = image.residual != nullptr;
  for (i64 p = 0; p < pixels; ++p) {
    const auto [row, column] = places[p];
    results.y[p] = image.y + row * image.y_row + column * image.y_pixel + filter_tile.filter;
    if (residual) {
      results.residual[p] = image.residual + row * image.residual_row +
                            column * image.residual_pixel + filter_tile.filter;
    }
  }
  const Epilogue& e = layer.epilogue;
  const i64 done =
      residual
          ? Isa::template requantise<true>(e, filter_tile.filter, filter_tile.filters, results)
          : Isa::template requantise<false>(e, filter_tile.filter, filter_tile.filters, results);
  for (i64 p = 0; p < pixels; ++p) {
    for (i64 t = done; t < filter_tile.filters; ++t) {
      results.y[p][t] = static_cast<u8>(requantise_one(
          e, filter_tile.filter + t, sums[p * pitch + t], residual ? results.residual[p][t] : 0));
    }
  }
}

template <class Tap, int kBlocks, int kPixels>
void tile_of(i64 pixels, const KernelLayer& layer, const FilterTile& filter_tile,
             const u8* const* windows, const u8* prefetch, i32* sums) {
  if constexpr (kPixels > 1) {
    if (pixels < kPixels) {
      return tile_of<Tap, kBlocks, kPixels - 1>(pixels, layer, filter_tile, windows, prefetch,
                                                sums);
    }
  }
  tile<Tap, kBlocks, kPixels>(layer, filter_tile, windows, prefetch, sums);
}

template <class Isa, class Tap, int kBlocks>
void compute(const KernelLayer& layer, const Image& image, const FilterTile& filter_tile,
             const Prefetch& prefetch, i64 begin, i64 end) {
  if constexpr (kBlocks > 1) {
    if (filter_tile.blocks < kBlocks) {
      return compute<Isa, Tap, kBlocks - 1>(layer, image, filter_tile, prefetch, begin, end);
    }
  }
  constexpr i64 kPixels = Tap::kSums / kBlocks < kMaxPixels ? Tap::kSums / kBlocks : kMaxPixels;
  alignas(64) i32 sums[kPixels * kBlocks * Tap::kLanes];
  Place place{begin / layer.wo, begin % layer.wo};
  const i64 reach =
      layer.runs * ceil_div(layer.run_bytes, Tap::kGroup) * kPrefetchBytes<Tap, kBlocks>;
  i64 fetched = 0;
  // Tiles of nearly the same size: a small last one would be bound by latency.
  for (i64 tiles = ceil_div(end - begin, kPixels); tiles > 0; --tiles) {
    const i64 pixels = ceil_div(end - begin, tiles);
    begin += pixels;
    const u8* windows[kPixels];
    Place places[kPixels];
    for (i64 p = 0; p < pixels; ++p, next(place, layer.wo)) {
      places[p] = place;
      windows[p] = image.x + filter_tile.x + place.row * layer.x_row + place.column * layer.x_pixel;
    }
    // Prefetched as a whole or not at all; the weights in use are in the cache.
    const bool fetches = fetched + reach <= prefetch.bytes;
    tile_of<Tap, kBlocks, kPixels>(pixels, layer, filter_tile, windows,
                                   fetches ? prefetch.data + fetched : filter_tile.weights, sums);
    if (fetches) fetched += reach;
    write<Isa>(layer, image, filter_tile, places, pixels, sums, kBlocks * Tap::kLanes);
  }
}

template <class Isa, class Tap>
constexpr Kernel window_kernel(const char* name) {
  return {name,
          {Tap::kLanes, Tap::kGroup, Tap::kStepBytes, Tap::kBlocks, Tap::place},
          compute<Isa, Tap, Tap::kBlocks>};
}

}  // namespace
}  // namespace mulfree::nodes

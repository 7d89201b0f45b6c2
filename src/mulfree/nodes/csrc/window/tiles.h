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
// load, tap, place; Extra and extras (one of each pixel's window), which `store` gets; kPrefetches
// (whether a step prefetches a line of the next weights).
#pragma once

#include "_native/sliding/support.h"
#include "kernels.h"

namespace mulfree::nodes {
namespace {

using sliding::ceil_div;
using sliding::max_i64;
using sliding::min_i64;

// Pixels of a tile: more need more pointers than there are registers.
constexpr i64 kMaxPixels = 8;

// Sums after the last one that epilogues may read (and ignore).
constexpr i64 kSumSlack = 1;

inline int requantise_one(const Epilogue& e, i64 filter, i32 sum, int residual) {
  const i64 v =
      i64{sum} * e.multiplier[filter] + e.offset[filter] + i64{e.residual_multiplier} * residual;
  return static_cast<int>(max_i64(e.low, min_i64(e.high, v >> e.shift)));
}

// For sums without an extra term.
struct NoExtras {
  static constexpr bool kPrefetches = true;
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
  const u8* firsts[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) firsts[p] = windows[p] + filter_tile.x;
  const u8* weights = filter_tile.weights;
  const i64 bytes = layer.run_bytes;
  const i64 whole = Tap::kMasksTail ? bytes - bytes % Tap::kGroup : bytes;
  for (i64 run = 0; run < layer.runs; ++run) {
    const i64 offset = layer.run_offsets[run];
    const u8* x[kPixels];
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) x[p] = firsts[p] + offset;
    for (i64 i = 0; i < whole; i += Tap::kGroup) {
      typename Tap::W w[kBlocks];
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) w[b] = Tap::load(weights + b * Tap::kStepBytes);
      weights += kBlocks * Tap::kStepBytes;
      if constexpr (Tap::kPrefetches) {
        __builtin_prefetch(prefetch, 0, 2);
        prefetch += kPrefetchBytes<Tap, kBlocks>;
      }
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
  Tap::template extras<kPixels>(layer, firsts, extra);
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

// Some output pixels: their windows, without the x of a filter tile, and their addresses.
struct Chunk {
  static constexpr i64 kMaxPixels = 32;
  i64 pixels;
  const u8* windows[kMaxPixels];
  u8* y[kMaxPixels];
  const u8* residual[kMaxPixels];
  i32* sums[kMaxPixels];
};

// body(chunk) for output pixels [begin, end), at most `pixels` at a time.
template <class Body>
void for_chunks(const KernelLayer& layer, const Image& image, i64 pixels, i64 begin, i64 end,
                const Body& body) {
  Chunk chunk;
  i64 row = begin / layer.wo, column = begin % layer.wo;
  while (begin < end) {
    chunk.pixels = min_i64(pixels, end - begin);
    for (i64 p = 0; p < chunk.pixels; ++p, ++begin) {
      chunk.windows[p] = image.x + row * layer.x_row + column * layer.x_pixel;
      if (image.y == nullptr) {
        chunk.sums[p] = image.sums + begin * layer.filters;
      } else {
        chunk.y[p] = image.y + row * image.y_row + column * image.y_pixel;
        if (image.residual != nullptr) {
          chunk.residual[p] =
              image.residual + row * image.residual_row + column * image.residual_pixel;
        }
      }
      if (++column == layer.wo) ++row, column = 0;
    }
    body(static_cast<const Chunk&>(chunk));
  }
}

// Sums of a chunk, sums[pixel * pitch + filter - first filter].
struct Results {
  const Chunk& chunk;
  const i32* sums;
  i64 pitch;
};

// Writes sums bare or through the epilogue.
template <class Isa>
void write(const KernelLayer& layer, const Image& image, const FilterTile& filter_tile,
           const Results& results) {
  const Chunk& chunk = results.chunk;
  const i64 first = filter_tile.filter, filters = filter_tile.filters;
  if (image.y == nullptr) {
    for (i64 p = 0; p < chunk.pixels; ++p) {
      const i32* const sums = results.sums + p * results.pitch;
      for (i64 t = 0; t < filters; ++t) chunk.sums[p][first + t] = sums[t];
    }
    return;
  }
  const bool residual = image.residual != nullptr;
  const Epilogue& e = layer.epilogue;
  const i64 done = residual ? Isa::template requantise<true>(e, first, filters, results)
                            : Isa::template requantise<false>(e, first, filters, results);
  if (done == filters) return;
  for (i64 p = 0; p < chunk.pixels; ++p) {
    for (i64 t = done; t < filters; ++t) {
      chunk.y[p][first + t] =
          static_cast<u8>(requantise_one(e, first + t, results.sums[p * results.pitch + t],
                                         residual ? chunk.residual[p][first + t] : 0));
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

template <class Tap, int kBlocks>
constexpr i64 kTilePixels = Tap::kSums / kBlocks < kMaxPixels ? Tap::kSums / kBlocks : kMaxPixels;

// Pixels that meet all filter tiles of a call in turn.
template <class Tap>
constexpr i64 kChunkPixels = 4 * kTilePixels<Tap, Tap::kBlocks>;

// One filter tile at the pixels of a chunk. `fetched` bytes of `prefetch` are prefetched already.
template <class Isa, class Tap, int kBlocks>
void compute_tiles(const KernelLayer& layer, const Image& image, const FilterTile& filter_tile,
                   const Prefetch& prefetch, i64& fetched, const Chunk& chunk,
                   const u8* const* windows) {
  if constexpr (kBlocks > 1) {
    if (filter_tile.blocks < kBlocks) {
      return compute_tiles<Isa, Tap, kBlocks - 1>(layer, image, filter_tile, prefetch, fetched,
                                                  chunk, windows);
    }
  }
  constexpr i64 kPixels = kTilePixels<Tap, kBlocks>, kPitch = kBlocks * Tap::kLanes;
  alignas(64) i32 sums[kChunkPixels<Tap> * kPitch + kSumSlack];
  const i64 reach =
      layer.runs * ceil_div(layer.run_bytes, Tap::kGroup) * kPrefetchBytes<Tap, kBlocks>;
  // Tiles of nearly the same size: a small last one would waste registers.
  for (i64 tiles = ceil_div(chunk.pixels, kPixels), p = 0; tiles > 0; --tiles) {
    const i64 count = ceil_div(chunk.pixels - p, tiles);
    // Prefetched as a whole or not at all; the weights in use are in the cache.
    const bool fetches = fetched + reach <= prefetch.bytes;
    tile_of<Tap, kBlocks, kPixels>(count, layer, filter_tile, windows + p,
                                   fetches ? prefetch.data + fetched : filter_tile.weights,
                                   sums + p * kPitch);
    if (fetches) fetched += reach;
    p += count;
  }
  write<Isa>(layer, image, filter_tile, {chunk, sums, kPitch});
}

template <class Isa, class Tap>
void compute(const KernelLayer& layer, const Image& image, const FilterTile* filter_tiles,
             i64 count, const Prefetch& prefetch, i64 begin, i64 end) {
  const i64 steps = layer.runs * ceil_div(layer.run_bytes, Tap::kGroup);
  i64 fetched = 0, done = begin;
  for_chunks(layer, image, kChunkPixels<Tap>, begin, end, [&](const Chunk& chunk) {
    const bool first = done == begin;
    done += chunk.pixels;
    for (i64 i = 0; i < count; ++i) {
      Prefetch ahead{nullptr, 0};
      if (i + 1 == count) {
        if (done == end || count == 1) ahead = prefetch;
      } else if (first) {
        const FilterTile& following = filter_tiles[i + 1];
        ahead = {following.weights, following.blocks * steps * Tap::kStepBytes};
      }
      if (count > 1) fetched = 0;
      compute_tiles<Isa, Tap, Tap::kBlocks>(layer, image, filter_tiles[i], ahead, fetched, chunk,
                                            chunk.windows);
    }
  });
}

template <class Isa, class Tap>
constexpr Kernel window_kernel(const char* name) {
  return {name,
          {Tap::kLanes, Tap::kGroup, Tap::kStepBytes, Tap::kBlocks, false, Tap::place},
          compute<Isa, Tap>};
}

// The same for windows of up to kShortWindow bytes, with a tap over 16-bit numbers: the windows of
// a chunk are widened once for all filter tiles, and weights once for all pixels. Traits: widen,
// which may write 15 numbers more; widen_weights, of whole steps; Wide, the tap over such weights.
template <class Isa, class Tap>
void compute_widened(const KernelLayer& layer, const Image& image, const FilterTile* filter_tiles,
                     i64 count, const Prefetch& prefetch, i64 begin, i64 end) {
  constexpr i64 kNumbers = kShortWindow * kTilePixels<Tap, Tap::kBlocks>;
  alignas(64) std::uint16_t wide[kNumbers + 16];
  alignas(64) std::int16_t weights[kTileGroupBytes];
  const i64 pitch = ceil_div(layer.runs * layer.run_bytes, 2) * 2;
  const i64 run_offset = 0;
  KernelLayer widened = layer;
  widened.runs = 1;
  widened.run_bytes = 2 * pitch;
  widened.run_offsets = &run_offset;
  const u8* const packed = filter_tiles[0].weights;
  // A single tile of pixels meets every weight once.
  const bool widens = end - begin > kTilePixels<Tap, Tap::kBlocks>;
  if (widens) {
    const FilterTile& last = filter_tiles[count - 1];
    const i64 bytes_of_block = ceil_div(widened.run_bytes, Tap::kGroup) * Tap::kStepBytes;
    Tap::widen_weights(weights, packed, last.weights - packed + last.blocks * bytes_of_block);
  }
  i64 fetched = 0, done = begin;
  const i64 pixels = min_i64(kChunkPixels<Tap>, kNumbers / pitch), ahead = pixels * layer.x_pixel;
  for_chunks(layer, image, pixels, begin, end, [&](const Chunk& chunk) {
    done += chunk.pixels;
    const u8* windows[Chunk::kMaxPixels];
    for (i64 i = 0; i < count; ++i) {
      FilterTile filter_tile = filter_tiles[i];
      if (i == 0 || filter_tile.x != filter_tiles[i - 1].x) {
        for (i64 p = 0; p < chunk.pixels; ++p) {
          const u8* const window = chunk.windows[p] + filter_tile.x;
          std::uint16_t* to = wide + p * pitch;
          windows[p] = reinterpret_cast<const u8*>(to);
          for (i64 run = 0; run < layer.runs; ++run, to += layer.run_bytes) {
            Tap::widen(to, window + layer.run_offsets[run], layer.run_bytes, ahead);
          }
        }
      }
      filter_tile.x = 0;
      const bool fetches = i + 1 == count && (done == end || count == 1);
      const Prefetch next = fetches ? prefetch : Prefetch{nullptr, 0};
      if (widens) {
        using Wide = typename Tap::Wide;
        filter_tile.weights = reinterpret_cast<const u8*>(weights + (filter_tile.weights - packed));
        compute_tiles<Isa, Wide, Wide::kBlocks>(widened, image, filter_tile, next, fetched, chunk,
                                                windows);
      } else {
        compute_tiles<Isa, Tap, Tap::kBlocks>(widened, image, filter_tile, next, fetched, chunk,
                                              windows);
      }
    }
  });
}

template <class Isa, class Tap>
constexpr Kernel widened_kernel(const char* name) {
  return {name,
          {Tap::kLanes, Tap::kGroup / 2, Tap::kStepBytes, Tap::kBlocks, true, Tap::place},
          compute_widened<Isa, Tap>};
}

}  // namespace
}  // namespace mulfree::nodes

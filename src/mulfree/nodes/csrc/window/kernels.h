// Interface of the integer window kernels: u8 activations, 32-bit sums, fixed-point epilogue.
//   adder: acc = -sum |x - w|, w u8;   conv: acc = sum x * w, w s8;   over the K bytes of a window
//   y = clamp((acc * multiplier + offset + residual_multiplier * residual) >> shift, low, high)
// Plain data only: this header is read by translation units of every instruction set, so it
// must not define functions that the linker could take from the wrong one.
#pragma once

#include <cstdint>

namespace mulfree::nodes {

using i8 = std::int8_t;
using u8 = std::uint8_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

// Bytes after the last value of an image that kernels may read (and ignore).
constexpr i64 kSlack = 64;

// Filters that one call computes, and their packed weights: for each step of `group` bytes of K
// one piece of `step_bytes` for each block of `lanes` filters. Tails are padded by weight 0.
struct FilterTile {
  i64 x;       // first byte of the channels these filters read, from a pixel's first
  i64 filter;  // the first one, of `filters`
  i64 filters;
  i64 blocks;
  const u8* weights;
  const i32* bias;  // [blocks * lanes]; -sum w of an adder's filter, sum w of a convolution's
};

// Memory to prefetch: the weights of a thread's next filter tile.
struct Prefetch {
  const u8* data;
  i64 bytes;
};

// The fixed-point epilogue. The rounding term 1 << (shift - 1) is in `offset`.
struct Epilogue {
  const i32* multiplier;  // [filters]
  const i64* offset;      // [filters]
  i32 residual_multiplier;
  int shift;
  int low, high;
};

// The window of one output pixel is `runs` pieces of `run_bytes` contiguous bytes.
struct KernelLayer {
  i64 runs, run_bytes;
  const i64* run_offsets;  // from the window's first byte
  i64 x_row, x_pixel;      // from the window of an output pixel to the windows below and beside
  i64 wo;
  i64 filters;
  Epilogue epilogue;
};

// One image: first byte of the window of output pixel (0, 0), and address of that pixel.
struct Image {
  const u8* x;
  i32* sums;  // [pixels, filters]: the bare sums; or null and all that follows:
  u8* y;
  i64 y_row, y_pixel;
  const u8* residual;  // or null
  i64 residual_row, residual_pixel;
};

// Layout of a kernel's packed weights.
struct Format {
  i64 lanes, group, step_bytes;
  i64 blocks;  // at most, of a filter tile
  bool whole;  // K is walked as one run
  // Puts the weight of byte j of a step's group for one lane.
  void (*place)(u8* step, i64 lane, i64 j, int weight);
};

struct Kernel {
  const char* name;
  Format format;
  // Output pixels [begin, end), counted row by row, of `count` filter tiles.
  void (*compute)(const KernelLayer& layer, const Image& image, const FilterTile* filter_tiles,
                  i64 count, const Prefetch& prefetch, i64 begin, i64 end);
};

// Bytes of the windows of `conv_short`, at most; its copies of a few windows fit the L1 cache.
constexpr i64 kShortWindow = 2560;

// Bytes of the packed weights of a call with several filter tiles, at most; of one that is of
// `conv_short`, too.
constexpr i64 kTileGroupBytes = 1 << 16;

// One set of kernels. Narrow layers have at most `narrow` filters that share their input.
// Depthwise: filter t reads channel t alone, so lanes are channels too and K is taps.
struct Kernels {
  Kernel adder, adder_narrow, conv, conv_short, adder_depthwise, conv_depthwise;
  i64 narrow;
};

// The depthwise adder's sums are 16 bits wide.
constexpr i64 kDepthwiseTaps = 65535 / 255;

extern const Kernels kernels_avx512vnni;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx2;
extern const Kernels kernels_neon;
extern const Kernels kernels_scalar;

}  // namespace mulfree::nodes

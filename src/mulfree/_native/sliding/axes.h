// The geometry of a lowering: axes of windows, and blocks of window positions ("lanes").
#pragma once

#include "support.h"

namespace mulfree::sliding {
namespace {

// One spatial axis. Lane `i` reads, for tap `t`, source index
//   origin + i * stride + phase[slot[t]] + index[t] * stride.
struct Axis {
  i64 source = 0;  // extent of the source
  i64 lanes = 0;   // number of lanes
  i64 origin = 0;
  i64 stride = 1;
  i64 taps = 0;
  i64 slots = 0;                        // phases in use
  i64 span = 0;                         // largest index
  Buffer<i64> phase, slot, index, tap;  // `tap`: position in the kernel of each listed tap

  i64 length(i64 block_lanes) const { return block_lanes + span; }
};

// Axis of a window that slides over the source with a stride and zero padding.
inline void make_window_axis(Axis& axis, i64 source, i64 lanes, i64 kernel, i64 stride, i64 padding,
                             i64 dilation) {
  axis.source = source;
  axis.lanes = lanes;
  axis.origin = -padding;
  axis.stride = stride;
  axis.taps = kernel;
  axis.phase.reset(kernel), axis.slot.reset(kernel);
  axis.index.reset(kernel), axis.tap.reset(kernel);
  for (i64 t = 0; t < kernel; ++t) {
    const i64 phase = t * dilation % stride;
    i64 slot = 0;
    while (slot < axis.slots && axis.phase[slot] != phase) ++slot;
    if (slot == axis.slots) axis.phase[axis.slots++] = phase;
    axis.slot[t] = slot;
    axis.index[t] = t * dilation / stride;
    axis.tap[t] = t;
    axis.span = max_i64(axis.span, axis.index[t]);
  }
}

// Axis of the transposed window: lanes are the input positions first, first + stride, ..., the
// source is the gradient of the output, and the taps are those that reach these positions.
inline void make_transposed_axis(Axis& axis, i64 first, i64 inputs, i64 outputs, i64 kernel,
                                 i64 stride, i64 padding, i64 dilation) {
  axis.source = outputs;
  axis.lanes = (inputs - 1 - first) / stride + 1;
  axis.phase.reset(1), axis.slot.reset(kernel);
  axis.index.reset(kernel), axis.tap.reset(kernel);
  axis.phase[0] = 0;
  axis.slots = 1;
  for (i64 t = 0; t < kernel; ++t) {
    if (t * dilation % stride != (first + padding) % stride) continue;
    axis.slot[axis.taps] = 0;
    axis.index[axis.taps] = t * dilation / stride;
    axis.tap[axis.taps] = t;
    axis.span = axis.index[axis.taps++];
  }
  // Lane i takes output (first + padding) / stride + i - t * dilation / stride for tap t.
  for (i64 t = 0; t < axis.taps; ++t) axis.index[t] = axis.span - axis.index[t];
  axis.origin = (first + padding) / stride - axis.span;
}

// A block of lanes: `images` x `rows` x `cols` of the lane grid.
struct Block {
  i64 image, images, row, rows, col, cols;
  i64 lanes() const { return images * rows * cols; }
};

// Cuts a lane grid into blocks of about `target` lanes. Depends on the geometry alone.
struct Blocks {
  i64 images, rows, cols;  // of the grid
  i64 block_images, block_rows, block_cols;
  i64 image_blocks, row_blocks, col_blocks;

  Blocks(i64 n, i64 grid_rows, i64 grid_cols, i64 target)
      : images(n), rows(grid_rows), cols(grid_cols) {
    col_blocks = max_i64(1, ceil_div(cols, target));
    block_cols = ceil_div(cols, col_blocks);
    col_blocks = ceil_div(cols, block_cols);
    const i64 fit_rows = max_i64(1, target / block_cols);
    row_blocks = ceil_div(rows, fit_rows);
    block_rows = ceil_div(rows, row_blocks);
    row_blocks = ceil_div(rows, block_rows);
    const i64 fit_images = max_i64(1, target / (block_rows * block_cols));
    image_blocks = row_blocks * col_blocks > 1 ? images : ceil_div(images, fit_images);
    block_images = image_blocks > 0 ? ceil_div(images, image_blocks) : 0;
    image_blocks = block_images > 0 ? ceil_div(images, block_images) : 0;
  }

  i64 count() const { return image_blocks * row_blocks * col_blocks; }
  i64 max_lanes() const { return block_images * block_rows * block_cols; }

  Block operator[](i64 i) const {
    const i64 c = i % col_blocks, r = i / col_blocks % row_blocks;
    const i64 n = i / col_blocks / row_blocks;
    return {n * block_images, min_i64(block_images, images - n * block_images),
            r * block_rows,   min_i64(block_rows, rows - r * block_rows),
            c * block_cols,   min_i64(block_cols, cols - c * block_cols)};
  }
};

}  // namespace
}  // namespace mulfree::sliding

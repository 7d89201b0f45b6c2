// Native ops of an integer network: each writes one value, or the output, of one image.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "window/packed_layer.h"

namespace mulfree::nodes {

// A value u8 [h, w, c] in the arena, inside a border of `zero` as wide as its readers' padding.
struct Value {
  i64 c, h, w;
  int zero;
  i64 border_h = 0, border_w = 0;
  i64 offset = 0;               // in the arena
  const Value* home = nullptr;  // the value whose memory it uses, if not its own

  i64 row() const { return (w + 2 * border_w) * c; }
  i64 bytes() const { return (h + 2 * border_h) * row(); }
  // The first byte of pixel (0, 0).
  u8* origin(u8* arena) const { return arena + offset + border_h * row() + border_w * c; }
};

// Operands of an op: one image.
struct Frame {
  u8* arena;
  const u8* input;  // [c, h, w]
  bool quantised;
  float* output;
};

class NativeOp {
 public:
  NativeOp(std::vector<const Value*> reads, const Value* writes)
      : reads_(std::move(reads)), writes_(writes) {}
  NativeOp(const NativeOp&) = delete;
  NativeOp& operator=(const NativeOp&) = delete;
  virtual ~NativeOp() = default;

  const std::vector<const Value*>& reads() const { return reads_; }
  const Value* writes() const { return writes_; }

  virtual std::string describe() const = 0;
  // Called once, when the borders of all values are known.
  virtual void prepare() {}
  // Packed weights, if any.
  virtual PackedLayer* layer() const { return nullptr; }
  // Independent tasks, enough for `team` threads; results do not depend on their number.
  virtual i64 tasks(int team) const;
  void run(const Frame& frame, i64 task, i64 tasks) const;

 protected:
  // One task; rows [begin, end) of `writes` unless `tasks` is overridden.
  virtual void work(const Frame& frame, i64 task, i64 tasks) const;
  virtual void rows(const Frame&, i64, i64) const {}

 private:
  std::vector<const Value*> reads_;
  const Value* writes_;
};

using NativeOpPointer = std::unique_ptr<NativeOp>;

// Scalars of the fixed-point epilogue of `mean` and `add`, with the rounding term in `offset`.
struct Scalars {
  i32 multiplier, multiplier_b;
  i64 offset;
  int shift, low, high;
};

// Arguments are checked by Program. `table` may be empty: then frames must be quantised.
NativeOpPointer make_input(const Value* y, std::vector<u8> table);
NativeOpPointer make_window(const char* op, const Value* x, const Value* y, const Value* residual,
                            std::unique_ptr<PackedLayer> layer);
NativeOpPointer make_max_pool(const Value* x, const Value* y, Pair kernel, Pair stride,
                              Pair padding, std::vector<u8> minimum);
// y[r, c]: maximum of x at stride * (r, c) and at stride * (r, c) + distance.
NativeOpPointer make_larger(const Value* x, const Value* y, Pair distance, Pair stride);
NativeOpPointer make_mean(const Value* x, const Value* y, Pair kernel, Pair stride,
                          Scalars scalars);
// `mean` in two ops: the first writes i32 sums of `kernel` rows, as bytes.
NativeOpPointer make_sums_of_rows(const Value* x, const Value* sums, i64 kernel, i64 stride);
NativeOpPointer make_mean_of_columns(const Value* sums, const Value* y, i64 kernel, i64 stride,
                                     Scalars scalars);
NativeOpPointer make_add(const Value* a, const Value* b, const Value* y, Scalars scalars);
NativeOpPointer make_lut(const Value* x, const Value* y, std::vector<u8> table);
NativeOpPointer make_pad(const Value* x, const Value* y, i64 left, i64 top);
NativeOpPointer make_repeat(const Value* x, const Value* y, i64 factor);
// `places`: for each channel of the stacked `xs` its channel in y.
NativeOpPointer make_concat(std::vector<const Value*> xs, const Value* y, std::vector<i32> places);
// `sums` holds the i32 sums of the outputs, as bytes.
NativeOpPointer make_linear(const Value* x, const Value* sums, std::unique_ptr<PackedLayer> layer,
                            std::vector<float> scale, std::vector<float> bias);

}  // namespace mulfree::nodes

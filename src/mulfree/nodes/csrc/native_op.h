// A native op of an integer network: it writes one value, or a part of the output, of one image.
#pragma once

#include <functional>
#include <memory>
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
  float* output;  // of all nodes that end
};

// Writes one value. Loops over bytes keep their bounds in local variables: a byte may alias any
// other number.
struct NativeOp {
  std::vector<const Value*> reads;
  const Value* writes;
  // One of `tasks` independent tasks; results do not depend on their number.
  std::function<void(const Frame& frame, i64 task, i64 tasks)> work;
  std::unique_ptr<PackedLayer> layer;  // of a layer
  bool whole_filters = false;          // a task computes some filters of that layer at all pixels

  // Called once, when the borders of all values are known.
  void prepare() const;
  // Enough for `team` threads.
  i64 tasks(int team) const;
  void run(const Frame& frame, i64 task, i64 tasks) const;
};

// Rows [begin, end) of y, made of x.
struct Rows {
  const Value& x;
  const Value& y;
  const Frame& frame;
  i64 begin, end;

  const u8* from(i64 row) const { return x.origin(frame.arena) + row * x.row(); }
  u8* to(i64 row) const { return y.origin(frame.arena) + row * y.row(); }
};

// An op whose tasks are rows of y; x is the first value read, or y itself if there is none.
NativeOp rows_op(std::vector<const Value*> reads, const Value* y,
                 std::function<void(const Rows& rows)> work);

}  // namespace mulfree::nodes

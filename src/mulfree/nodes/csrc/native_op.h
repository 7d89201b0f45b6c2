// A native op of an integer network: it writes one value, or a part of the output, of one image.
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
  float* output;  // of all nodes that end
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

// Loops of ops that write bytes keep their bounds in local variables: a byte may alias any member.

using NativeOpPointer = std::unique_ptr<NativeOp>;

}  // namespace mulfree::nodes

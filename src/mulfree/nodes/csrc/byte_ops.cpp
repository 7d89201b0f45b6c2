#include "byte_ops.h"

#include <cstring>

namespace mulfree::nodes {
namespace {

class Lut final : public NativeOp {
 public:
  Lut(const Value* x, const Value* y, std::vector<u8> table)
      : NativeOp({x}, y), table_(std::move(table)) {}
  std::string describe() const override { return "lut"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const u8* from = x.origin(frame.arena) + row * x.row();
      u8* to = y.origin(frame.arena) + row * y.row();
      const u8* const table = table_.data();
      for (i64 left = y.w, channels = y.c; left > 0; --left, from += channels, to += channels) {
        for (i64 c = 0; c < channels; ++c) to[c] = table[c * 256 + from[c]];
      }
    }
  }

 private:
  std::vector<u8> table_;
};

class Pad final : public NativeOp {
 public:
  Pad(const Value* x, const Value* y, i64 left, i64 top)
      : NativeOp({x}, y), left_(left), top_(top) {}
  std::string describe() const override { return "pad"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      u8* const to = y.origin(frame.arena) + row * y.row();
      std::memset(to, y.zero, static_cast<std::size_t>(y.w * y.c));
      if (row < top_ || row >= top_ + x.h) continue;
      std::memcpy(to + left_ * y.c, x.origin(frame.arena) + (row - top_) * x.row(),
                  static_cast<std::size_t>(x.w * x.c));
    }
  }

 private:
  i64 left_, top_;
};

}  // namespace

NativeOpPointer make_lut(const Value* x, const Value* y, std::vector<u8> table) {
  return std::make_unique<Lut>(x, y, std::move(table));
}

NativeOpPointer make_pad(const Value* x, const Value* y, i64 left, i64 top) {
  return std::make_unique<Pad>(x, y, left, top);
}

}  // namespace mulfree::nodes

// Average pooling, of each window by itself or by running sums.
#include <algorithm>

#include "nodes/csrc/builder.h"
#include "nodes/csrc/epilogue.h"
#include "nodes/csrc/pooling.h"

namespace mulfree::nodes {
namespace {

class Mean final : public NativeOp {
 public:
  Mean(const Value* x, const Value* y, Pair kernel, Pair stride, Scalars scalars)
      : NativeOp({x}, y), kernel_(kernel), stride_(stride), scalars_(scalars) {}
  std::string describe() const override { return "mean"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      for (i64 column = 0; column < y.w; ++column) {
        const u8* const window =
            x.origin(frame.arena) + row * stride_.first * x.row() + column * stride_.second * x.c;
        u8* const to = y.origin(frame.arena) + row * y.row() + column * y.c;
        for (i64 c = 0; c < y.c; c += kChannels) {
          channels(window + c, std::min(kChannels, y.c - c), to + c);
        }
      }
    }
  }

 private:
  static constexpr i64 kChannels = 64;

  void channels(const u8* window, i64 count, u8* to) const {
    i32 sums[kChannels] = {};
    for (i64 sy = 0; sy < kernel_.first; ++sy) {
      for (i64 sx = 0; sx < kernel_.second; ++sx) {
        const u8* const from = window + sy * reads()[0]->row() + sx * reads()[0]->c;
        for (i64 c = 0; c < count; ++c) sums[c] += from[c];
      }
    }
    const Scalars s = scalars_;
    for (i64 c = 0; c < count; ++c) {
      to[c] = clamp_byte(i64{sums[c]} * s.multiplier + s.offset, s);
    }
  }

  Pair kernel_, stride_;
  Scalars scalars_;
};

class SumsOfRows final : public NativeOp {
 public:
  SumsOfRows(const Value* x, const Value* sums, i64 kernel, i64 stride)
      : NativeOp({x}, sums), kernel_(kernel), stride_(stride) {}
  std::string describe() const override { return "sums of rows"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    const i64 count = x.w * x.c;
    const auto all = [&](i64 row) {
      return reinterpret_cast<i32*>(y.origin(frame.arena) + row * y.row());
    };
    // Added to and subtracted from the running sums by each row.
    for (i64 row = begin; row < end; ++row) {
      i32* const to = all(row);
      const bool whole = row == begin || stride_ >= kernel_;
      if (whole) {
        std::fill(to, to + count, 0);
      } else {
        std::copy(all(row - 1), all(row - 1) + count, to);
      }
      const i64 first = row * stride_, added = whole ? kernel_ : stride_;
      for (i64 i = 0; i < added; ++i) {
        const u8* const from = x.origin(frame.arena) + (first + kernel_ - 1 - i) * x.row();
        for (i64 j = 0; j < count; ++j) to[j] += from[j];
      }
      for (i64 i = 1; !whole && i <= stride_; ++i) {
        const u8* const from = x.origin(frame.arena) + (first - i) * x.row();
        for (i64 j = 0; j < count; ++j) to[j] -= from[j];
      }
    }
  }

 private:
  i64 kernel_, stride_;
};

class MeanOfColumns final : public NativeOp {
 public:
  MeanOfColumns(const Value* sums, const Value* y, i64 kernel, i64 stride, Scalars scalars)
      : NativeOp({sums}, y), kernel_(kernel), stride_(stride), scalars_(scalars) {}
  std::string describe() const override { return "mean of columns"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const i32* const from = reinterpret_cast<const i32*>(x.origin(frame.arena) + row * x.row());
      u8* const to = y.origin(frame.arena) + row * y.row();
      for (i64 c = 0; c < y.c; c += kChannels)
        channels(from + c, std::min(kChannels, y.c - c), to + c);
    }
  }

 private:
  static constexpr i64 kChannels = 64;

  void channels(const i32* sums_of_rows, i64 count, u8* to) const {
    const Value& y = *writes();
    const Scalars s = scalars_;
    i32 sums[kChannels] = {};
    for (i64 column = 0; column < y.w; ++column, to += y.c) {
      const bool whole = column == 0 || stride_ >= kernel_;
      if (whole) std::fill(sums, sums + kChannels, 0);
      const i64 first = column * stride_, added = whole ? kernel_ : stride_;
      for (i64 i = 0; i < added; ++i) {
        const i32* const from = sums_of_rows + (first + kernel_ - 1 - i) * y.c;
        for (i64 c = 0; c < count; ++c) sums[c] += from[c];
      }
      for (i64 i = 1; !whole && i <= stride_; ++i) {
        const i32* const from = sums_of_rows + (first - i) * y.c;
        for (i64 c = 0; c < count; ++c) sums[c] -= from[c];
      }
      for (i64 c = 0; c < count; ++c) {
        to[c] = clamp_byte(i64{sums[c]} * s.multiplier + s.offset, s);
      }
    }
  }

  i64 kernel_, stride_;
  Scalars scalars_;
};

void append(Builder& node, const Fields& fields) {
  const Value& x = node.read();
  const Pair kernel = fields.pair("kernel", 1), stride = fields.pair("stride", 1);
  const Value& y = node.write(x.c, window_count(x.h, kernel.first, stride.first, 0),
                              window_count(x.w, kernel.second, stride.second, 0));
  const Scalars scalars(fields);
  constexpr int kPasses = 4;
  if (worth_passes(kernel, y, {x.h, x.w}, kPasses)) {
    // i32, as bytes.
    const Value* const sums = node.scratch(static_cast<i64>(sizeof(i32)) * x.c, y.h, x.w);
    node.append(std::make_unique<SumsOfRows>(&x, sums, kernel.first, stride.first));
    node.append(std::make_unique<MeanOfColumns>(sums, &y, kernel.second, stride.second, scalars));
    node.set_name("mean: running sums");
  } else {
    node.append(std::make_unique<Mean>(&x, &y, kernel, stride, scalars));
  }
}

const NodeKernel kernel("mean", append);

}  // namespace
}  // namespace mulfree::nodes

// Max pooling, of each window by itself or by running maxima.
#include <algorithm>
#include <cstring>

#include "nodes/csrc/builder.h"
#include "nodes/csrc/byte_ops.h"
#include "nodes/csrc/pooling.h"

namespace mulfree::nodes {
namespace {

class MaxPool final : public NativeOp {
 public:
  MaxPool(const Value* x, const Value* y, Pair kernel, Pair stride, Pair padding,
          std::vector<u8> minimum)
      : NativeOp({x}, y), kernel_(kernel), stride_(stride), padding_(padding), flip_(minimum) {
    // min(x) = 255 - max(255 - x), and 255 - x = x ^ 255.
    for (u8& flip : flip_) flip = flip != 0 ? 255 : 0;
    flips_ = std::any_of(flip_.begin(), flip_.end(), [](u8 flip) { return flip != 0; });
    flip_.resize(flip_.size() + kChannels);
  }
  std::string describe() const override { return "max_pool"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const i64 top = row * stride_.first - padding_.first;
      const i64 y0 = std::max<i64>(top, 0), y1 = std::min(top + kernel_.first, x.h);
      for (i64 column = 0; column < y.w; ++column) {
        const i64 left = column * stride_.second - padding_.second;
        const i64 x0 = std::max<i64>(left, 0), x1 = std::min(left + kernel_.second, x.w);
        const u8* const window = x.origin(frame.arena) + y0 * x.row() + x0 * x.c;
        u8* const to = y.origin(frame.arena) + row * y.row() + column * y.c;
        for (i64 c = 0, all = y.c; c < all; c += kChannels) {
          u8 best[kChannels];
          flips_ ? best_of<true>(window + c, y1 - y0, x1 - x0, flip_.data() + c, best)
                 : best_of<false>(window + c, y1 - y0, x1 - x0, nullptr, best);
          std::memcpy(to + c, best, static_cast<std::size_t>(std::min(kChannels, all - c)));
        }
      }
    }
  }

 private:
  static constexpr i64 kChannels = 64;
  static_assert(kChannels <= kSlack);

  // Reads whole pieces of channels; lanes after the last channel are ignored.
  template <bool kFlips>
  void best_of(const u8* window, i64 height, i64 width, const u8* flip, u8* best) const {
    // A vector of the baseline: plain bytes would be spilled, and each step depend on the last.
    typedef u8 Piece __attribute__((vector_size(16)));
    constexpr int kPieces = kChannels / sizeof(Piece);
    const auto piece = [](const u8* bytes, int i) {
      Piece out;
      std::memcpy(&out, bytes + i * sizeof(Piece), sizeof out);
      return out;
    };
    Piece most[kPieces] = {};
    for (i64 sy = 0; sy < height; ++sy) {
      const u8* from = window + sy * reads()[0]->row();
      for (i64 sx = 0; sx < width; ++sx, from += reads()[0]->c) {
#pragma GCC unroll 4
        for (int i = 0; i < kPieces; ++i) {
          const Piece x = kFlips ? piece(from, i) ^ piece(flip, i) : piece(from, i);
          most[i] = x > most[i] ? x : most[i];
        }
      }
    }
    for (int i = 0; kFlips && i < kPieces; ++i) most[i] ^= piece(flip, i);
    std::memcpy(best, most, sizeof most);
  }

  Pair kernel_, stride_, padding_;
  std::vector<u8> flip_;
  bool flips_;
};

class Larger final : public NativeOp {
 public:
  Larger(const Value* x, const Value* y, Pair distance, Pair stride)
      : NativeOp({x}, y), distance_(distance), stride_(stride) {}
  std::string describe() const override { return "larger"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    const i64 run = stride_.second == 1 ? y.w * y.c : y.c;
    const i64 step = stride_.second * x.c, length = y.w * y.c;
    const i64 distance = distance_.first * x.row() + distance_.second * x.c;
    for (i64 row = begin; row < end; ++row) {
      const u8* a = x.origin(frame.arena) + row * stride_.first * x.row();
      u8* to = y.origin(frame.arena) + row * y.row();
      for (const u8* const last = to + length; to != last; to += run, a += step) {
        const u8* const b = a + distance;
        for (i64 i = 0; i < run; ++i) to[i] = std::max(a[i], b[i]);
      }
    }
  }

 private:
  Pair distance_, stride_;
};

// Number of reaches 1, 2, 4, ... below `size`.
int doublings(i64 size) {
  int steps = 0;
  for (i64 reach = 1; reach < size; reach *= 2) ++steps;
  return steps;
}

// Few comparisons, however large the window: the maximum of 2 n rows is the maximum of two maxima
// of n rows.
void running_maxima(Builder& node, const Value* x, const Value* y, Pair kernel, Pair stride,
                    Pair padding, const std::vector<u8>& minimum) {
  const i64 channels = x->c;
  const Value* const homes[] = {node.scratch(0, 0, 0), node.scratch(0, 0, 0)};
  int made = 0;
  const auto next = [&](i64 h, i64 w) { return node.scratch(channels, h, w, homes[made++ % 2]); };
  // min(x) = 255 - max(255 - x).
  std::vector<u8> turned(minimum.size() * 256);
  for (std::size_t i = 0; i < turned.size(); ++i) {
    turned[i] = static_cast<u8>(minimum[i / 256] != 0 ? 255 - i % 256 : i % 256);
  }
  const bool turns = std::any_of(minimum.begin(), minimum.end(), [](u8 mark) { return mark != 0; });
  if (turns) x = node.append(make_lut(x, next(x->h, x->w), turned));
  if (padding != Pair{0, 0}) {
    x = node.append(make_pad(x, next(x->h + 2 * padding.first, x->w + 2 * padding.second),
                             padding.second, padding.first));
  }
  for (const bool rows : {true, false}) {
    const i64 size = rows ? kernel.first : kernel.second;
    bool last = false;
    for (i64 reach = 1; !last;) {
      const i64 step = std::min(reach, size - reach);
      reach += step;
      last = reach == size;
      const Pair distance = rows ? Pair{step, 0} : Pair{0, step};
      const i64 every = !last ? 1 : rows ? stride.first : stride.second;
      const Pair strides = rows ? Pair{every, 1} : Pair{1, every};
      const i64 h = (x->h - distance.first - 1) / strides.first + 1;
      const i64 w = (x->w - distance.second - 1) / strides.second + 1;
      const Value* const to = last && !rows && !turns ? y : next(h, w);
      x = node.append(std::make_unique<Larger>(x, to, distance, strides));
    }
  }
  if (turns) node.append(make_lut(x, y, turned));
}

void append(Builder& node, const Fields& fields) {
  const Value& x = node.read();
  Pair kernel = fields.pair("kernel", 1), padding = fields.pair("padding", 0);
  const Pair stride = fields.pair("stride", 1);
  if (padding.first > kernel.first / 2 || padding.second > kernel.second / 2) {
    fail("max_pool", "padding", "be at most half of the kernel", text(padding));
  }
  const Value& y = node.write(x.c, window_count(x.h, kernel.first, stride.first, padding.first),
                              window_count(x.w, kernel.second, stride.second, padding.second));
  const std::vector<u8> minimum = fields.array<u8>("minimum", {x.c});
  // A window that reaches further than a whole map beyond the edge sees the same elements.
  const Pair spare = {std::max<i64>(0, padding.first - x.h),
                      std::max<i64>(0, padding.second - x.w)};
  kernel = {kernel.first - 2 * spare.first, kernel.second - 2 * spare.second};
  padding = {padding.first - spare.first, padding.second - spare.second};
  const int passes = 2 + doublings(kernel.first) + doublings(kernel.second);
  const Pair padded = {x.h + 2 * padding.first, x.w + 2 * padding.second};
  if (worth_passes(kernel, y, padded, passes)) {
    running_maxima(node, &x, &y, kernel, stride, padding, minimum);
    node.set_name("max_pool: running maxima");
  } else {
    node.append(std::make_unique<MaxPool>(&x, &y, kernel, stride, padding, minimum));
  }
}

const NodeKernel kernel("max_pool", append);

}  // namespace
}  // namespace mulfree::nodes

// Max pooling, of each window by itself or by running maxima.
#include <algorithm>
#include <cstring>

#include "nodes/csrc/byte_ops.h"
#include "nodes/csrc/pooling.h"

namespace mulfree::nodes {

namespace {

constexpr i64 kChannels = 64;
static_assert(kChannels <= kSlack);

// Maxima of one window [height, width] of x. Reads whole pieces of channels; lanes after the last
// channel are ignored.
template <bool kFlips>
void best_of(const u8* window, const Value& x, i64 height, i64 width, const u8* flip, u8* best) {
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
    const u8* from = window + sy * x.row();
    for (i64 sx = 0; sx < width; ++sx, from += x.c) {
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

void append_windows(Builder& node, const Value* x, const Value* y, Pair kernel, Pair stride,
                    Pair padding, const std::vector<u8>& minimum) {
  // min(x) = 255 - max(255 - x), and 255 - x = x ^ 255.
  const bool flips = std::any_of(minimum.begin(), minimum.end(), [](u8 mark) { return mark != 0; });
  std::vector<u8> flip(minimum.size() + kChannels);
  for (std::size_t c = 0; c < minimum.size(); ++c) flip[c] = minimum[c] != 0 ? 255 : 0;
  node.rows({x}, y, [=](const Rows& rows) {
    const Value &x = rows.x, &y = rows.y;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const i64 top = row * stride.first - padding.first;
      const i64 y0 = std::max<i64>(top, 0), y1 = std::min(top + kernel.first, x.h);
      for (i64 column = 0; column < y.w; ++column) {
        const i64 left = column * stride.second - padding.second;
        const i64 x0 = std::max<i64>(left, 0), x1 = std::min(left + kernel.second, x.w);
        const u8* const window = rows.from(y0) + x0 * x.c;
        u8* const to = rows.to(row) + column * y.c;
        for (i64 c = 0, all = y.c; c < all; c += kChannels) {
          u8 best[kChannels];
          flips ? best_of<true>(window + c, x, y1 - y0, x1 - x0, flip.data() + c, best)
                : best_of<false>(window + c, x, y1 - y0, x1 - x0, nullptr, best);
          std::memcpy(to + c, best, static_cast<std::size_t>(std::min(kChannels, all - c)));
        }
      }
    }
  });
}

// y[r, c]: maximum of x at stride * (r, c) and at stride * (r, c) + distance.
const Value* append_larger(Builder& node, const Value* x, const Value* y, Pair distance,
                           Pair stride) {
  return node.rows({x}, y, [distance, stride](const Rows& rows) {
    const Value &x = rows.x, &y = rows.y;
    const i64 run = stride.second == 1 ? y.w * y.c : y.c;
    const i64 step = stride.second * x.c, length = y.w * y.c;
    const i64 offset = distance.first * x.row() + distance.second * x.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* a = rows.from(row * stride.first);
      u8* to = rows.to(row);
      for (const u8* const last = to + length; to != last; to += run, a += step) {
        const u8* const b = a + offset;
        for (i64 i = 0; i < run; ++i) to[i] = std::max(a[i], b[i]);
      }
    }
  });
}

// Number of reaches 1, 2, 4, ... below `size`.
int doublings(i64 size) {
  int steps = 0;
  for (i64 reach = 1; reach < size; reach *= 2) ++steps;
  return steps;
}

// Few comparisons, however large the window: the maximum of 2 n rows is the maximum of two maxima
// of n rows.
void append_running_maxima(Builder& node, const Value* x, const Value* y, Pair kernel, Pair stride,
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
  if (turns) x = append_lut(node, x, next(x->h, x->w), turned);
  if (padding != Pair{0, 0}) {
    const Value* const padded = next(x->h + 2 * padding.first, x->w + 2 * padding.second);
    x = append_pad(node, x, padded, padding.second, padding.first);
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
      x = append_larger(node, x, to, distance, strides);
    }
  }
  if (turns) append_lut(node, x, y, turned);
  node.set_name("running maxima");
}

}  // namespace

MULFREE_NODE(max_pool) {
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
  const bool running = worth_passes(kernel, y, padded, passes);
  (running ? append_running_maxima : append_windows)(node, &x, &y, kernel, stride, padding,
                                                     minimum);
}

}  // namespace mulfree::nodes

// Average pooling, of each window by itself or by running sums.
#include <algorithm>

#include "nodes/csrc/builder.h"
#include "nodes/csrc/epilogue.h"
#include "nodes/csrc/pooling.h"

namespace mulfree::nodes {

namespace {

constexpr i64 kChannels = 64;

// One window of `count` channels; from one row of x to the next are `row` bytes.
void mean_of_window(const u8* window, i64 row, i64 channels, Pair kernel, const Scalars& scalars,
                    i64 count, u8* to) {
  i32 sums[kChannels] = {};
  for (i64 sy = 0; sy < kernel.first; ++sy) {
    for (i64 sx = 0; sx < kernel.second; ++sx) {
      const u8* const from = window + sy * row + sx * channels;
      for (i64 c = 0; c < count; ++c) sums[c] += from[c];
    }
  }
  const Scalars s = scalars;
  for (i64 c = 0; c < count; ++c) to[c] = clamp_byte(i64{sums[c]} * s.multiplier + s.offset, s);
}

// i32 sums of `kernel` rows, as bytes.
void sums_of_rows(const Rows& rows, i64 kernel, i64 stride) {
  const i64 count = rows.x.w * rows.x.c;
  const auto sums = [&](i64 row) { return reinterpret_cast<i32*>(rows.to(row)); };
  // Added to and subtracted from the running sums by each row.
  for (i64 row = rows.begin; row < rows.end; ++row) {
    i32* const to = sums(row);
    const bool whole = row == rows.begin || stride >= kernel;
    if (whole) {
      std::fill(to, to + count, 0);
    } else {
      std::copy(sums(row - 1), sums(row - 1) + count, to);
    }
    const i64 first = row * stride, added = whole ? kernel : stride;
    for (i64 i = 0; i < added; ++i) {
      const u8* const from = rows.from(first + kernel - 1 - i);
      for (i64 j = 0; j < count; ++j) to[j] += from[j];
    }
    for (i64 i = 1; !whole && i <= stride; ++i) {
      const u8* const from = rows.from(first - i);
      for (i64 j = 0; j < count; ++j) to[j] -= from[j];
    }
  }
}

// One row of `count` channels of y, made of such sums.
void mean_of_columns(const i32* sums_of_rows, const Value& y, i64 kernel, i64 stride,
                     const Scalars& scalars, i64 count, u8* to) {
  const Scalars s = scalars;
  i32 sums[kChannels] = {};
  for (i64 column = 0; column < y.w; ++column, to += y.c) {
    const bool whole = column == 0 || stride >= kernel;
    if (whole) std::fill(sums, sums + kChannels, 0);
    const i64 first = column * stride, added = whole ? kernel : stride;
    for (i64 i = 0; i < added; ++i) {
      const i32* const from = sums_of_rows + (first + kernel - 1 - i) * y.c;
      for (i64 c = 0; c < count; ++c) sums[c] += from[c];
    }
    for (i64 i = 1; !whole && i <= stride; ++i) {
      const i32* const from = sums_of_rows + (first - i) * y.c;
      for (i64 c = 0; c < count; ++c) sums[c] -= from[c];
    }
    for (i64 c = 0; c < count; ++c) to[c] = clamp_byte(i64{sums[c]} * s.multiplier + s.offset, s);
  }
}

}  // namespace

MULFREE_NODE(mean) {
  const Value& x = node.read();
  const Pair kernel = fields.pair("kernel", 1), stride = fields.pair("stride", 1);
  const Value& y = node.write(x.c, window_count(x.h, kernel.first, stride.first, 0),
                              window_count(x.w, kernel.second, stride.second, 0));
  const Scalars scalars(fields);
  constexpr int kPasses = 4;
  if (!worth_passes(kernel, y, {x.h, x.w}, kPasses)) {
    node.rows({&x}, &y, [kernel, stride, scalars](const Rows& rows) {
      const i64 channels = rows.y.c, width = rows.y.w;
      for (i64 row = rows.begin; row < rows.end; ++row) {
        for (i64 column = 0; column < width; ++column) {
          const u8* const window =
              rows.from(row * stride.first) + column * stride.second * channels;
          u8* const to = rows.to(row) + column * channels;
          for (i64 c = 0; c < channels; c += kChannels) {
            mean_of_window(window + c, rows.x.row(), channels, kernel, scalars,
                           std::min(kChannels, channels - c), to + c);
          }
        }
      }
    });
    return;
  }
  const Value* const sums = node.scratch(static_cast<i64>(sizeof(i32)) * x.c, y.h, x.w);
  node.rows({&x}, sums,
            [kernel, stride](const Rows& rows) { sums_of_rows(rows, kernel.first, stride.first); });
  node.rows({sums}, &y, [kernel, stride, scalars](const Rows& rows) {
    const i64 channels = rows.y.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const i32* const from = reinterpret_cast<const i32*>(rows.from(row));
      for (i64 c = 0; c < channels; c += kChannels) {
        mean_of_columns(from + c, rows.y, kernel.second, stride.second, scalars,
                        std::min(kChannels, channels - c), rows.to(row) + c);
      }
    }
  });
  node.set_name("running sums");
}

}  // namespace mulfree::nodes

#include "byte_ops.h"

#include <algorithm>
#include <cstring>

namespace mulfree::nodes {

namespace {

// Holds where all channels have the table of the first.
bool is_uniform(const std::vector<u8>& tables) {
  return std::equal(tables.begin() + 256, tables.end(), tables.begin());
}

// y = table[x]. Four at a time: a byte may alias any other, so one store orders all later loads.
void look_up(const u8* table, const u8* from, u8* to, i64 count) {
  i64 i = 0;
  for (; i + 4 <= count; i += 4) {
    const u8 a = table[from[i]], b = table[from[i + 1]];
    const u8 c = table[from[i + 2]], d = table[from[i + 3]];
    to[i] = a, to[i + 1] = b, to[i + 2] = c, to[i + 3] = d;
  }
  for (; i < count; ++i) to[i] = table[from[i]];
}

}  // namespace

const Value* append_lut(Builder& node, const Value* x, const Value* y, std::vector<u8> tables) {
  if (is_uniform(tables)) tables.resize(256);
  return node.rows({x}, y, [tables = std::move(tables)](const Rows& rows) {
    const u8* const table = tables.data();
    const bool uniform = tables.size() == 256;
    const i64 width = rows.y.w, channels = rows.y.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* from = rows.from(row);
      u8* to = rows.to(row);
      if (uniform) {
        look_up(table, from, to, width * channels);
        continue;
      }
      for (i64 left = width; left > 0; --left, from += channels, to += channels) {
        for (i64 c = 0; c < channels; ++c) to[c] = table[c * 256 + from[c]];
      }
    }
  });
}

const Value* append_pad(Builder& node, const Value* x, const Value* y, i64 left, i64 top) {
  return node.rows({x}, y, [left, top](const Rows& rows) {
    const Value &x = rows.x, &y = rows.y;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      u8* const to = rows.to(row);
      std::memset(to, y.zero, static_cast<std::size_t>(y.w * y.c));
      if (row < top || row >= top + x.h) continue;
      std::memcpy(to + left * y.c, rows.from(row - top), static_cast<std::size_t>(x.w * x.c));
    }
  });
}

}  // namespace mulfree::nodes

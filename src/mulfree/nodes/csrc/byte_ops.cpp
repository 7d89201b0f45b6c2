#include "byte_ops.h"

#include <cstring>

namespace mulfree::nodes {

const Value* append_lut(Builder& node, const Value* x, const Value* y, std::vector<u8> tables) {
  return node.rows({x}, y, [tables = std::move(tables)](const Rows& rows) {
    const u8* const table = tables.data();
    const i64 width = rows.y.w, channels = rows.y.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* from = rows.from(row);
      u8* to = rows.to(row);
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

// Nearest-neighbour upsampling.
#include <cstring>

#include "nodes/csrc/builder.h"

namespace mulfree::nodes {

MULFREE_NODE(repeat) {
  const Value& x = node.read();
  const i64 factor = fields.number("factor", 1, kMaxBytes);
  const Value& y = node.write(x.c, x.h * factor, x.w * factor);
  node.rows({&x}, &y, [factor](const Rows& rows) {
    const i64 width = rows.y.w, channels = rows.y.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* const from = rows.from(row / factor);
      u8* const to = rows.to(row);
      for (i64 column = 0; column < width; ++column) {
        std::memcpy(to + column * channels, from + column / factor * channels,
                    static_cast<std::size_t>(channels));
      }
    }
  });
}

}  // namespace mulfree::nodes

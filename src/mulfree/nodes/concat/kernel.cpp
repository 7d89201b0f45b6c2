// Channels of several values in any order.
#include "nodes/csrc/builder.h"

namespace mulfree::nodes {

MULFREE_NODE(concat) {
  const Value& first = node.read();
  std::vector<const Value*> xs;
  i64 stacked = 0;
  for (std::size_t i = 0; i < node.reads(); ++i) {
    xs.push_back(&node.read(i, node.read(i).c, first.h, first.w));
    stacked += xs.back()->c;
  }
  const Value& y = node.write(stacked, first.h, first.w);
  const auto order = fields.array<i32>("order", {stacked});
  // Of each stacked channel its channel in y.
  std::vector<i32> channels(static_cast<std::size_t>(stacked), -1);
  for (i64 c = 0; c < stacked; ++c) {
    const i64 from = order.data[c];
    if (from < 0 || from >= stacked || channels[static_cast<std::size_t>(from)] != -1) {
      fail("concat", "order", "be a permutation", std::to_string(from));
    }
    channels[static_cast<std::size_t>(from)] = static_cast<i32>(c);
  }
  node.rows(xs, &y, [xs, channels](const Rows& rows) {
    const i32* places = channels.data();
    for (const Value* x : xs) {
      for (i64 row = rows.begin; row < rows.end; ++row) {
        const u8* from = x->origin(rows.frame.arena) + row * x->row();
        u8* to = rows.to(row);
        const i64 channels = x->c, all = rows.y.c;
        for (i64 left = rows.y.w; left > 0; --left, from += channels, to += all) {
#pragma GCC unroll 8
          for (i64 c = 0; c < channels; ++c) to[places[c]] = from[c];
        }
      }
      places += x->c;
    }
  });
}

}  // namespace mulfree::nodes

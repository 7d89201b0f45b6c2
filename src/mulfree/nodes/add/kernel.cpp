// Sum of two values.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/epilogue.h"

namespace mulfree::nodes {

MULFREE_NODE(add) {
  const Value& a = node.read();
  const Value& b = node.read(1, a.c, a.h, a.w);
  const Value& y = node.write(a.c, a.h, a.w);
  const Scalars scalars(fields, fields.number32("other_multiplier"));
  node.rows({&a, &b}, &y, [scalars, other = &b](const Rows& rows) {
    const Scalars s = scalars;
    const i64 count = rows.y.w * rows.y.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* const p = rows.from(row);
      const u8* const q = other->origin(rows.frame.arena) + row * other->row();
      u8* const to = rows.to(row);
      for (i64 i = 0; i < count; ++i) {
        to[i] = clamp_byte(i64{p[i]} * s.multiplier + i64{q[i]} * s.other_multiplier + s.offset, s);
      }
    }
  });
}

}  // namespace mulfree::nodes

// Product of a map and one number for each channel.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/epilogue.h"

namespace mulfree::nodes {

namespace {

// Largest |(q_x - zero_x) * (q_gate - zero_gate)|.
constexpr i64 kLargestProduct = 255 * 255;

// Integers of a value of bytes.
template <class T>
const T* numbers(const Value& value, u8* arena) {
  return reinterpret_cast<const T*>(value.origin(arena));
}

// y = clamp(((x - zero) * factor[c] + offset) >> shift), where T holds every sum.
template <class T>
void append_gate(Builder& node, const Value* x, const Value* gate, const Value* y,
                 const Scalars& scalars) {
  const Value* const factors = node.scratch(static_cast<i64>(sizeof(T)) * x->c, 1, 1);
  node.rows({gate}, factors, [scalars](const Rows& rows) {
    const u8* const q = rows.from(0);
    T* const to = reinterpret_cast<T*>(rows.to(0));
    const i64 channels = rows.x.c;
    const T zero = rows.x.zero, multiplier = scalars.multiplier;
    for (i64 c = 0; c < channels; ++c) to[c] = (T{q[c]} - zero) * multiplier;
  });
  node.rows({x, factors}, y, [scalars, factors](const Rows& rows) {
    const T* const factor = numbers<T>(*factors, rows.frame.arena);
    const i64 width = rows.y.w, channels = rows.y.c;
    const T zero = rows.x.zero, offset = static_cast<T>(scalars.offset);
    const T low = scalars.low, high = scalars.high;
    const int shift = scalars.shift;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* from = rows.from(row);
      u8* to = rows.to(row);
      for (i64 left = width; left > 0; --left, from += channels, to += channels) {
        for (i64 c = 0; c < channels; ++c) {
          const T v = ((T{from[c]} - zero) * factor[c] + offset) >> shift;
          to[c] = static_cast<u8>(v < low ? low : v > high ? high : v);
        }
      }
    }
  });
}

}  // namespace

MULFREE_NODE(gate) {
  const Value& x = node.read();
  const Value& gate = node.read(1, x.c, 1, 1);
  const Value& y = node.write(x.c, x.h, x.w);
  const Scalars scalars(fields);
  const i64 offset = std::abs(scalars.offset);
  const i64 largest = kLargestProduct * std::abs(i64{scalars.multiplier});
  constexpr i64 kMost = std::numeric_limits<i32>::max();
  if (scalars.shift < 32 && offset <= kMost && largest <= kMost - offset) {
    append_gate<i32>(node, &x, &gate, &y, scalars);
    node.set_name("32 bits");
  } else {
    append_gate<i64>(node, &x, &gate, &y, scalars);
  }
}

}  // namespace mulfree::nodes

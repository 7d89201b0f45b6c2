// The fixed-point epilogue of nodes: its fields, and its arithmetic with scalar factors.
#pragma once

#include <algorithm>

#include "fields.h"

namespace mulfree::nodes {

struct Clamp {
  i64 shift, low, high;

  explicit Clamp(const Fields& fields)
      : shift(fields.number("shift", 1, 62)),
        low(fields.number("clamp_min", 0, 255)),
        high(fields.number("clamp_max", low, 255)) {}
};

// With the rounding term in `offset`.
struct Scalars {
  i32 multiplier, other_multiplier;
  i64 offset;
  int shift, low, high;

  explicit Scalars(const Fields& fields, i32 other_multiplier = 0)
      : multiplier(fields.number32("multiplier")), other_multiplier(other_multiplier) {
    const Clamp clamp(fields);
    offset = fields.number("offset", -kMaxOffset, kMaxOffset) + (i64{1} << (clamp.shift - 1));
    shift = static_cast<int>(clamp.shift);
    low = static_cast<int>(clamp.low);
    high = static_cast<int>(clamp.high);
  }

  static constexpr i64 kMaxOffset = i64{1} << 62;
};

inline u8 clamp_byte(i64 v, const Scalars& s) {
  return static_cast<u8>(std::clamp<i64>(v >> s.shift, s.low, s.high));
}

}  // namespace mulfree::nodes

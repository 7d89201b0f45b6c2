// Extents of a window layer over u8 images, checked: errors are std::invalid_argument with a
// one-line message. For baseline translation units.
#pragma once

#include <array>
#include <initializer_list>
#include <string>
#include <utility>

#include "_native/sliding/checks.h"
#include "kernels.h"

namespace mulfree::nodes {

using sliding::fail;
using sliding::text;
using sliding::window_count;

using Pair = std::pair<i64, i64>;

// Extents and sizes in bytes of single tensors stay below this.
constexpr i64 kMaxBytes = i64{1} << 31;

// The product of non-negative numbers, capped at kMaxBytes.
i64 bounded_product(std::initializer_list<i64> factors);

enum class Op { adder, conv };

// An image [h, w, c], o filters [kh, kw, c / groups], their output [ho, wo, o].
struct Geometry {
  i64 c, h, w;
  i64 o, kh, kw;
  Pair stride, padding;  // above, left
  i64 groups;
  i64 ho, wo;
  Pair border;  // the larger of the paddings above and below, left and right

  i64 summands() const { return kh * kw * (c / groups); }
};

// Checks the arguments of `function`, and that 32 bits hold every sum. `padding_excess`: further
// rows below and columns right.
Geometry make_geometry(const std::string& function, Op op, const std::array<i64, 3>& hwc,
                       const std::array<i64, 4>& weight, Pair stride, Pair padding, i64 groups,
                       Pair padding_excess = {0, 0});

}  // namespace mulfree::nodes

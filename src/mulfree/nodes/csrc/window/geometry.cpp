#include "geometry.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace mulfree::nodes {

i64 bounded_product(std::initializer_list<i64> factors) {
  i64 product = 1;
  for (const i64 factor : factors) {
    if (factor == 0) return 0;
    product = factor >= (kMaxBytes + product - 1) / product ? kMaxBytes : product * factor;
  }
  return product;
}

Geometry make_geometry(const std::string& function, Op op, const std::array<i64, 3>& hwc,
                       const std::array<i64, 4>& weight, Pair stride, Pair padding, i64 groups,
                       Pair padding_excess) {
  const std::string weight_text = text(std::vector<i64>(weight.begin(), weight.end()));
  const std::string image_text = text(std::vector<i64>(hwc.begin(), hwc.end()));
  if (std::min({stride.first, stride.second}) < 1 ||
      std::max(stride.first, stride.second) >= kMaxBytes) {
    fail(function, "stride", "be positive and below 2**31", text(stride));
  }
  if (std::min(padding.first, padding.second) < 0 ||
      std::max(padding.first, padding.second) >= kMaxBytes) {
    fail(function, "padding", "be non-negative and below 2**31", text(padding));
  }
  const Pair after{padding.first + padding_excess.first, padding.second + padding_excess.second};
  if (std::min(after.first, after.second) < 0 || std::max(after.first, after.second) >= kMaxBytes) {
    fail(function, "padding_excess", "leave paddings from 0 to below 2**31", text(padding_excess));
  }
  if (groups < 1 || hwc[2] % groups != 0 || weight[0] % groups != 0) {
    fail(function, "groups",
         "be positive and divide the " + std::to_string(hwc[2]) + " input and " +
             std::to_string(weight[0]) + " output channels",
         std::to_string(groups));
  }
  if (*std::min_element(weight.begin(), weight.end()) < 1 || weight[3] != hwc[2] / groups ||
      bounded_product({weight[0], weight[1], weight[2], weight[3]}) >= kMaxBytes) {
    fail(function, "weight",
         "have shape [O, Kh, Kw, " + std::to_string(hwc[2] / groups) +
             "] without empty axes, below 2**31 bytes",
         weight_text);
  }
  Geometry geo{
      hwc[2],
      hwc[0],
      hwc[1],
      weight[0],
      weight[1],
      weight[2],
      stride,
      padding,
      groups,
      window_count(hwc[0] + padding_excess.first, weight[1], stride.first, padding.first),
      window_count(hwc[1] + padding_excess.second, weight[2], stride.second, padding.second),
      {std::max(padding.first, after.first), std::max(padding.second, after.second)}};
  if (geo.ho < 1 || geo.wo < 1) {
    fail(function, "weight",
         "fit the padded image " + image_text + " with padding " + text(padding), weight_text);
  }
  if (bounded_product({geo.h + 2 * geo.border.first, geo.w + 2 * geo.border.second, geo.c}) >=
      kMaxBytes) {
    fail(function, "padding", "leave the padded image " + image_text + " below 2**31 bytes",
         text(padding));
  }
  const i64 term = op == Op::adder ? 255 : 255 * 128;
  if (geo.summands() > std::numeric_limits<i32>::max() / term) {
    fail(function, "weight",
         "have at most " + std::to_string(std::numeric_limits<i32>::max() / term) +
             " values per filter",
         weight_text);
  }
  return geo;
}

}  // namespace mulfree::nodes

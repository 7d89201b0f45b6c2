#include "fields.h"

#include <algorithm>

namespace mulfree::nodes {
namespace {

std::string shown(const Fields::Field& field) {
  if (const auto* number = std::get_if<i64>(&field)) return std::to_string(*number);
  if (const auto* pair = std::get_if<Pair>(&field)) return sliding::text(*pair);
  const auto& array = std::get<Fields::Array>(field);
  return array.dtype + sliding::text(array.shape);
}

}  // namespace

const Fields::Field& Fields::field(const std::string& name) const {
  const auto found = fields_.find(name);
  if (found == fields_.end()) fail(op_, name, "be given", "no such field");
  return found->second;
}

i64 Fields::number(const std::string& name, i64 low, i64 high) const {
  const auto* number = std::get_if<i64>(&field(name));
  if (number == nullptr || *number < low || *number > high) {
    fail(op_, name, "be a number in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
         shown(field(name)));
  }
  return *number;
}

i32 Fields::number32(const std::string& name) const {
  using Limits = std::numeric_limits<i32>;
  return static_cast<i32>(number(name, Limits::min(), Limits::max()));
}

Pair Fields::pair(const std::string& name, i64 low) const {
  const auto* pair = std::get_if<Pair>(&field(name));
  if (pair == nullptr || std::min(pair->first, pair->second) < low ||
      std::max(pair->first, pair->second) >= kMaxBytes) {
    fail(op_, name, "be two numbers in [" + std::to_string(low) + ", 2**31)", shown(field(name)));
  }
  return *pair;
}

const Fields::Array& Fields::array(const std::string& name, const std::string& dtype,
                                   const std::vector<i64>& shape) const {
  const auto* array = std::get_if<Array>(&field(name));
  bool fits = array != nullptr && array->dtype == dtype && array->shape.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] == kAny ? array->shape[i] > 0 : array->shape[i] == shape[i];
  }
  if (!fits) {
    fail(op_, name, "be " + dtype + sliding::text(shape), shown(field(name)));
  }
  return *array;
}

}  // namespace mulfree::nodes

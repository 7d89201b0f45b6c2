// Fields of a node by name, as its kernel reads them; a wrong one is a std::invalid_argument.
#pragma once

#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "window/packed_layer.h"

namespace mulfree::nodes {

// C-contiguous elements of the caller, of axes `shape`.
template <class T>
struct Elements {
  const T* data;
  std::vector<i64> shape;

  const T* begin() const { return data; }
  const T* end() const {
    i64 size = 1;
    for (const i64 axis : shape) size *= axis;
    return data + size;
  }
  operator std::vector<T>() const { return {begin(), end()}; }
};

class Fields {
 public:
  struct Array {
    std::string dtype;  // as "u8"
    std::vector<i64> shape;
    const void* data;
  };
  using Field = std::variant<i64, Pair, Array>;

  // Length of an axis that may have any length but 0.
  static constexpr i64 kAny = -1;
  static constexpr i64 kLeast = std::numeric_limits<i64>::min();
  static constexpr i64 kMost = std::numeric_limits<i64>::max();

  Fields(std::string op, std::map<std::string, Field> fields)
      : op_(std::move(op)), fields_(std::move(fields)) {}

  const std::string& op() const { return op_; }
  // A number in [low, high].
  i64 number(const std::string& name, i64 low = kLeast, i64 high = kMost) const;
  i32 number32(const std::string& name) const;
  // Two numbers in [low, 2**31).
  Pair pair(const std::string& name, i64 low) const;
  template <class T>
  Elements<T> array(const std::string& name, const std::vector<i64>& shape) const {
    const char kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
    const Array& found = array(name, kind + std::to_string(8 * sizeof(T)), shape);
    return {static_cast<const T*>(found.data), found.shape};
  }

 private:
  const Field& field(const std::string& name) const;
  const Array& array(const std::string& name, const std::string& dtype,
                     const std::vector<i64>& shape) const;

  std::string op_;
  std::map<std::string, Field> fields_;
};

}  // namespace mulfree::nodes

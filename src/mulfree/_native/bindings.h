// Functions of the Python module mulfree._native._core register themselves: a static Binding in
// the file that defines them. Arrays are C-contiguous, on the CPU and of exactly the type named.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace mulfree {

namespace nb = nanobind;

struct Binding {
  using Define = void (*)(nb::module_& m);
  explicit Binding(Define define) { all().push_back(define); }
  static std::vector<Define>& all();
};

template <class T, std::size_t kAxes>
using Array = nb::ndarray<T, nb::ndim<kAxes>, nb::c_contig, nb::device::cpu>;

template <class T>
std::array<std::int64_t, 4> shape(const Array<T, 4>& array) {
  std::array<std::int64_t, 4> out;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int64_t>(array.shape(i));
  return out;
}

template <class T>
std::pair<std::int64_t, std::int64_t> shape(const Array<T, 2>& array) {
  return {static_cast<std::int64_t>(array.shape(0)), static_cast<std::int64_t>(array.shape(1))};
}

template <class T>
std::int64_t size(const Array<T, 1>& array) {
  return static_cast<std::int64_t>(array.shape(0));
}

}  // namespace mulfree

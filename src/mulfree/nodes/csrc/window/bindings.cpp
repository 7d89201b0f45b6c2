// The bare sums of the integer window kernels in Python, for tests.
#include "_native/bindings.h"

#include <algorithm>

#include "_native/gil.h"
#include "packed_layer.h"

namespace mulfree::nodes {
namespace {

using namespace nb::literals;

template <Op kOp, class W>
void window_sums(const Array<const u8, 4>& x, const Array<const W, 4>& w, const Array<i32, 4>& out,
                 Pair stride, Pair padding, i64 zero, i64 groups, int threads,
                 const std::string& isa) {
  const std::string function = kOp == Op::adder ? "adder2d_u8" : "conv2d_s8";
  const auto in = shape(x);
  if (*std::min_element(in.begin() + 1, in.end()) < 1) {
    fail(function, "x", "have no empty axis but the first",
         text(std::vector<i64>(in.begin(), in.end())));
  }
  const auto geo =
      make_geometry(function, kOp, {in[1], in[2], in[3]}, shape(w), stride, padding, groups);
  const std::array<i64, 4> want = {in[0], geo.ho, geo.wo, geo.o};
  const auto got = shape(out);
  if (got != want) {
    fail(function, "out", "have shape " + text(std::vector<i64>(want.begin(), want.end())),
         text(std::vector<i64>(got.begin(), got.end())));
  }
  if (zero < 0 || zero > 255) {
    fail(function, "zero", "be in [0, 255]", std::to_string(zero));
  }
  if (threads < 1) fail(function, "threads", "be positive", std::to_string(threads));
  const auto& kernels = select_kernels(function, isa);
  const gil::Released unlocked;
  window_sums(kernels, kOp, geo, in[0], x.data(), static_cast<int>(zero), w.data(), out.data(),
              threads);
}

const Binding binding([](nb::module_& m) {
  m.def("int8_isas", &supported_isas);
  m.def("adder2d_u8", &window_sums<Op::adder, u8>, "x"_a.noconvert(), "w"_a.noconvert(),
        "out"_a.noconvert(), "stride"_a, "padding"_a, "zero"_a, "groups"_a, "threads"_a, "isa"_a);
  m.def("conv2d_s8", &window_sums<Op::conv, i8>, "x"_a.noconvert(), "w"_a.noconvert(),
        "out"_a.noconvert(), "stride"_a, "padding"_a, "zero"_a, "groups"_a, "threads"_a, "isa"_a);
});

}  // namespace
}  // namespace mulfree::nodes

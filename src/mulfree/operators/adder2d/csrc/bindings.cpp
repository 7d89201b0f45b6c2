// The kernels of adder2d in Python: checks arrays, releases the GIL, calls the kernels.
#include "_native/bindings.h"

#include "_native/gil.h"
#include "_native/sliding/checks.h"
#include "adder2d.h"

namespace mulfree {
namespace {

using namespace nb::literals;

adder2d::Shape output_shape(const adder2d::Geometry& geo) {
  return {geo.n, geo.co, geo.ho, geo.wo};
}

void check_threads(int threads) {
  if (threads < 1) sliding::fail("adder2d", "threads", "be positive", std::to_string(threads));
}

template <class T>
void adder2d_forward(const Array<const T, 4>& x, const Array<const T, 4>& w, const Array<T, 4>& out,
                     adder2d::Pair stride, adder2d::Pair padding, adder2d::Pair dilation,
                     std::int64_t groups, int threads, const std::string& isa) {
  const auto geo = adder2d::make_geometry(shape(x), shape(w), stride, padding, dilation, groups);
  adder2d::check_shape("out", output_shape(geo), shape(out));
  check_threads(threads);
  const auto& kernels = adder2d::select_kernels<T>(isa);
  const gil::Released unlocked;
  kernels.forward(geo, x.data(), w.data(), out.data(), adder2d::useful_threads(geo, threads));
}

enum class Of { input, weight };

template <class T, Of kOf>
void adder2d_grad(const Array<const T, 4>& g, const Array<const T, 4>& x,
                  const Array<const T, 4>& w, const Array<T, 4>& out, adder2d::Pair stride,
                  adder2d::Pair padding, adder2d::Pair dilation, std::int64_t groups,
                  const std::string& rule, int threads, const std::string& isa) {
  const auto geo = adder2d::make_geometry(shape(x), shape(w), stride, padding, dilation, groups);
  adder2d::check_shape("grad", output_shape(geo), shape(g));
  adder2d::check_shape("out", shape(kOf == Of::input ? x : w), shape(out));
  check_threads(threads);
  const adder2d::Rule parsed = adder2d::parse_rule(rule);
  const auto& kernels = adder2d::select_kernels<T>(isa);
  const auto kernel = kOf == Of::input ? kernels.input_grad : kernels.weight_grad;
  const gil::Released unlocked;
  kernel(geo, parsed, g.data(), x.data(), w.data(), out.data(),
         adder2d::useful_threads(geo, threads));
}

template <class T>
void define_adder2d(nb::module_& m) {
  m.def("adder2d_forward", &adder2d_forward<T>, "x"_a.noconvert(), "w"_a.noconvert(),
        "out"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a, "threads"_a,
        "isa"_a);
  m.def("adder2d_input_grad", &adder2d_grad<T, Of::input>, "g"_a.noconvert(), "x"_a.noconvert(),
        "w"_a.noconvert(), "out"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
        "rule"_a, "threads"_a, "isa"_a);
  m.def("adder2d_weight_grad", &adder2d_grad<T, Of::weight>, "g"_a.noconvert(), "x"_a.noconvert(),
        "w"_a.noconvert(), "out"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
        "rule"_a, "threads"_a, "isa"_a);
}

const Binding binding([](nb::module_& m) {
  define_adder2d<float>(m);
  define_adder2d<double>(m);
  m.def("supported_isas", &adder2d::supported_isas);
});

}  // namespace
}  // namespace mulfree

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

// [n, c, h, w] of an image in either memory format.
adder2d::Shape image_shape(const adder2d::Shape& s, bool channels_last) {
  return channels_last ? adder2d::Shape{s[0], s[3], s[1], s[2]} : s;
}

void check_threads(int threads) {
  if (threads < 1) sliding::fail("adder2d", "threads", "be positive", std::to_string(threads));
}

// Returns false where there is no kernel for channels_last.
template <class T>
bool adder2d_forward(const Array<const T, 4>& x, const Array<const T, 4>& w, const Array<T, 4>& out,
                     adder2d::Pair stride, adder2d::Pair padding, adder2d::Pair dilation,
                     std::int64_t groups, int threads, const std::string& isa, bool channels_last) {
  const auto geo = adder2d::make_geometry(image_shape(shape(x), channels_last), shape(w), stride,
                                          padding, dilation, groups);
  adder2d::check_shape("out", output_shape(geo), image_shape(shape(out), channels_last));
  check_threads(threads);
  const auto& kernels = adder2d::select_kernels<T>(isa);
  const gil::Released unlocked;
  const int team = adder2d::useful_threads(geo, threads);
  if (channels_last) return kernels.last_forward(geo, x.data(), w.data(), out.data(), team);
  kernels.forward(geo, x.data(), w.data(), out.data(), team);
  return true;
}

enum class Of { input, weight };

template <class T, Of kOf>
bool adder2d_grad(const Array<const T, 4>& g, const Array<const T, 4>& x,
                  const Array<const T, 4>& w, const Array<T, 4>& out, adder2d::Pair stride,
                  adder2d::Pair padding, adder2d::Pair dilation, std::int64_t groups,
                  const std::string& rule, int threads, const std::string& isa,
                  bool channels_last) {
  const auto geo = adder2d::make_geometry(image_shape(shape(x), channels_last), shape(w), stride,
                                          padding, dilation, groups);
  adder2d::check_shape("grad", output_shape(geo), image_shape(shape(g), channels_last));
  adder2d::check_shape("out", shape(kOf == Of::input ? x : w), shape(out));
  check_threads(threads);
  const adder2d::Rule parsed = adder2d::parse_rule(rule);
  const auto& kernels = adder2d::select_kernels<T>(isa);
  const gil::Released unlocked;
  const int team = adder2d::useful_threads(geo, threads);
  if (channels_last) {
    const auto kernel = kOf == Of::input ? kernels.last_input_grad : kernels.last_weight_grad;
    return kernel(geo, parsed, g.data(), x.data(), w.data(), out.data(), team);
  }
  const auto kernel = kOf == Of::input ? kernels.input_grad : kernels.weight_grad;
  kernel(geo, parsed, g.data(), x.data(), w.data(), out.data(), team);
  return true;
}

template <class T>
void define_adder2d(nb::module_& m) {
  m.def("adder2d_forward", &adder2d_forward<T>, "x"_a.noconvert(), "w"_a.noconvert(),
        "out"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a, "threads"_a,
        "isa"_a, "channels_last"_a = false);
  m.def("adder2d_input_grad", &adder2d_grad<T, Of::input>, "g"_a.noconvert(), "x"_a.noconvert(),
        "w"_a.noconvert(), "out"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
        "rule"_a, "threads"_a, "isa"_a, "channels_last"_a = false);
  m.def("adder2d_weight_grad", &adder2d_grad<T, Of::weight>, "g"_a.noconvert(), "x"_a.noconvert(),
        "w"_a.noconvert(), "out"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
        "rule"_a, "threads"_a, "isa"_a, "channels_last"_a = false);
}

const Binding binding([](nb::module_& m) {
  define_adder2d<float>(m);
  define_adder2d<double>(m);
  m.def("supported_isas", &adder2d::supported_isas);
});

}  // namespace
}  // namespace mulfree

// The integer kernels and programs in Python module mulfree._native._core.
#include "integer.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "../runtime/csrc/program.h"
#include "gil.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace mulfree {
namespace {

using nodes::i32;
using nodes::i64;
using nodes::i8;
using nodes::Pair;
using nodes::u8;
using runtime::Program;

template <class T, std::size_t kAxes>
using Array = nb::ndarray<T, nb::ndim<kAxes>, nb::c_contig, nb::device::cpu>;

template <class T>
std::array<i64, 4> shape(const Array<T, 4>& array) {
  std::array<i64, 4> out;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<i64>(array.shape(i));
  return out;
}

template <class T>
Pair shape_pair(const Array<T, 2>& array) {
  return {static_cast<i64>(array.shape(0)), static_cast<i64>(array.shape(1))};
}

template <class T>
i64 size(const Array<T, 1>& array) {
  return static_cast<i64>(array.shape(0));
}

template <nodes::Rule kRule, class W>
void window_sums(const Array<const u8, 4>& x, const Array<const W, 4>& w, const Array<i32, 4>& out,
                 Pair stride, Pair padding, i64 zero, i64 groups, int threads,
                 const std::string& isa) {
  const std::string function = kRule == nodes::Rule::adder ? "adder2d_u8" : "conv2d_s8";
  const auto in = shape(x);
  if (*std::min_element(in.begin() + 1, in.end()) < 1) {
    nodes::fail(function, "x", "have no empty axis but the first",
                nodes::text(std::vector<i64>(in.begin(), in.end())));
  }
  const auto geo = nodes::make_geometry(function, kRule, {in[1], in[2], in[3]}, shape(w), stride,
                                        padding, groups);
  const std::array<i64, 4> want = {in[0], geo.ho, geo.wo, geo.o};
  const auto got = shape(out);
  if (got != want) {
    nodes::fail(function, "out",
                "have shape " + nodes::text(std::vector<i64>(want.begin(), want.end())),
                nodes::text(std::vector<i64>(got.begin(), got.end())));
  }
  if (zero < 0 || zero > 255) {
    nodes::fail(function, "zero", "be in [0, 255]", std::to_string(zero));
  }
  if (threads < 1) nodes::fail(function, "threads", "be positive", std::to_string(threads));
  const auto& kernels = nodes::select_kernels(function, isa);
  const gil::Released unlocked;
  nodes::window_sums(kernels, kRule, geo, in[0], x.data(), static_cast<int>(zero), w.data(),
                     out.data(), threads);
}

template <nodes::Rule kRule, class W>
void window(Program& program, i64 x, i64 y, const Array<const W, 4>& weight, Pair stride,
            Pair padding, i64 groups, const Array<const i32, 1>& multiplier,
            const Array<const i64, 1>& offset, i64 shift, i64 low, i64 high, i64 residual,
            i32 residual_multiplier) {
  program.window(kRule, {x,
                         y,
                         weight.data(),
                         shape(weight),
                         stride,
                         padding,
                         groups,
                         {{multiplier.data(), multiplier.data() + size(multiplier)},
                          {offset.data(), offset.data() + size(offset)},
                          shift,
                          low,
                          high,
                          residual_multiplier},
                         residual});
}

template <nodes::Rule kRule, class W>
void define_window(nb::class_<Program>& program, const char* name) {
  program.def(name, &window<kRule, W>, "x"_a, "y"_a, "weight"_a.noconvert(), "stride"_a,
              "padding"_a, "groups"_a, "multiplier"_a.noconvert(), "offset"_a.noconvert(),
              "shift"_a, "low"_a, "high"_a, "residual"_a = -1, "residual_multiplier"_a = 0);
}

// Whether a signal handler of Python has raised; on threads other than the main one none runs.
bool raised() {
  const gil::Acquired locked;
  return PyErr_CheckSignals() != 0;
}

// `run` or `profile` of a program.
template <auto kMethod>
auto run(Program& program, const Array<const u8, 4>& input, const Array<float, 2>& output,
         bool quantised, int threads, i64 memory) {
  try {
    const gil::Released unlocked;
    return (program.*kMethod)(input.data(), shape(input), output.data(), shape_pair(output),
                              quantised, threads, memory, raised);
  } catch (const runtime::Interruption&) {
    throw nb::python_error();
  }
}

}  // namespace

void define_integer(nb::module_& m) {
  m.def("int8_isas", &nodes::supported_isas);
  m.def("adder2d_u8", &window_sums<nodes::Rule::adder, u8>, "x"_a.noconvert(), "w"_a.noconvert(),
        "out"_a.noconvert(), "stride"_a, "padding"_a, "zero"_a, "groups"_a, "threads"_a, "isa"_a);
  m.def("conv2d_s8", &window_sums<nodes::Rule::conv, i8>, "x"_a.noconvert(), "w"_a.noconvert(),
        "out"_a.noconvert(), "stride"_a, "padding"_a, "zero"_a, "groups"_a, "threads"_a, "isa"_a);

  nb::class_<Program> program(m, "Program");
  program.def(nb::init<const std::string&>(), "isa"_a = "")
      .def("value", &Program::value, "channels"_a, "height"_a, "width"_a, "zero"_a)
      .def("input_quantised", &Program::input_quantised, "y"_a)
      .def(
          "input_pixels",
          [](Program& self, i64 y, const Array<const u8, 2>& table) {
            self.input_pixels(y, table.data(), shape_pair(table));
          },
          "y"_a, "table"_a.noconvert());
  define_window<nodes::Rule::adder, u8>(program, "adder2d");
  define_window<nodes::Rule::conv, i8>(program, "conv2d");
  program
      .def(
          "max_pool",
          [](Program& self, i64 x, i64 y, Pair kernel, Pair stride, Pair padding,
             const Array<const u8, 1>& minimum) {
            self.max_pool(x, y, kernel, stride, padding, minimum.data(), size(minimum));
          },
          "x"_a, "y"_a, "kernel"_a, "stride"_a, "padding"_a, "minimum"_a.noconvert())
      .def("mean", &Program::mean, "x"_a, "y"_a, "kernel"_a, "stride"_a, "multiplier"_a, "offset"_a,
           "shift"_a, "low"_a, "high"_a)
      .def("add", &Program::add, "a"_a, "b"_a, "y"_a, "multiplier_a"_a, "multiplier_b"_a,
           "offset"_a, "shift"_a, "low"_a, "high"_a)
      .def(
          "lut",
          [](Program& self, i64 x, i64 y, const Array<const u8, 2>& table) {
            self.lut(x, y, table.data(), shape_pair(table));
          },
          "x"_a, "y"_a, "table"_a.noconvert())
      .def("pad", &Program::pad, "x"_a, "y"_a, "left"_a, "right"_a, "top"_a, "bottom"_a)
      .def("repeat", &Program::repeat, "x"_a, "y"_a, "factor"_a)
      .def(
          "concat",
          [](Program& self, const std::vector<i64>& xs, i64 y, const Array<const i32, 1>& order) {
            self.concat(xs, y, order.data(), size(order));
          },
          "xs"_a, "y"_a, "order"_a.noconvert())
      .def(
          "linear",
          [](Program& self, i64 x, const Array<const i8, 2>& weight,
             const Array<const float, 1>& scale, const Array<const float, 1>& bias) {
            self.linear(x, weight.data(), shape_pair(weight), scale.data(), size(scale),
                        bias.data(), size(bias));
          },
          "x"_a, "weight"_a.noconvert(), "scale"_a.noconvert(), "bias"_a.noconvert())
      .def("compile", &Program::compile)
      .def("run", &run<&Program::run>, "input"_a.noconvert(), "output"_a.noconvert(), "quantised"_a,
           "threads"_a, "memory"_a = runtime::kAnyMemory)
      .def("profile", &run<&Program::profile>, "input"_a.noconvert(), "output"_a.noconvert(),
           "quantised"_a, "threads"_a, "memory"_a = runtime::kAnyMemory)
      .def("arena_bytes", &Program::arena_bytes, "batch"_a)
      .def("describe", &Program::describe);
}

}  // namespace mulfree

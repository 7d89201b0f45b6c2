// Class Program in Python.
#include "_native/bindings.h"

#include "_native/gil.h"
#include "program.h"

namespace mulfree::runtime {
namespace {

using namespace nb::literals;
using nodes::i32;
using nodes::i64;
using nodes::i8;
using nodes::Pair;
using nodes::u8;

template <nodes::Op kOp, class W>
void window(Program& program, i64 x, i64 y, const Array<const W, 4>& weight, Pair stride,
            Pair padding, i64 groups, const Array<const i32, 1>& multiplier,
            const Array<const i64, 1>& offset, i64 shift, i64 low, i64 high, i64 residual,
            i32 residual_multiplier) {
  program.window(kOp, {x,
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

template <nodes::Op kOp, class W>
void define_window(nb::class_<Program>& program, const char* name) {
  program.def(name, &window<kOp, W>, "x"_a, "y"_a, "weight"_a.noconvert(), "stride"_a, "padding"_a,
              "groups"_a, "multiplier"_a.noconvert(), "offset"_a.noconvert(), "shift"_a, "low"_a,
              "high"_a, "residual"_a = -1, "residual_multiplier"_a = 0);
}

// Returns true if a signal handler of Python has raised; handlers run on the main thread only.
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
    return (program.*kMethod)(input.data(), shape(input), output.data(), shape(output), quantised,
                              threads, memory, raised);
  } catch (const Interruption&) {
    throw nb::python_error();
  }
}

const Binding binding([](nb::module_& m) {
  nb::class_<Program> program(m, "Program");
  program.def(nb::init<const std::string&>(), "isa"_a = "")
      .def("value", &Program::value, "channels"_a, "height"_a, "width"_a, "zero"_a)
      .def("input_quantised", &Program::input_quantised, "y"_a)
      .def(
          "input_pixels",
          [](Program& self, i64 y, const Array<const u8, 2>& table) {
            self.input_pixels(y, table.data(), shape(table));
          },
          "y"_a, "table"_a.noconvert());
  define_window<nodes::Op::adder, u8>(program, "adder2d");
  define_window<nodes::Op::conv, i8>(program, "conv2d");
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
            self.lut(x, y, table.data(), shape(table));
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
            self.linear(x, weight.data(), shape(weight), scale.data(), size(scale), bias.data(),
                        size(bias));
          },
          "x"_a, "weight"_a.noconvert(), "scale"_a.noconvert(), "bias"_a.noconvert())
      .def("compile", &Program::compile)
      .def("run", &run<&Program::run>, "input"_a.noconvert(), "output"_a.noconvert(), "quantised"_a,
           "threads"_a, "memory"_a = kAnyMemory)
      .def("profile", &run<&Program::profile>, "input"_a.noconvert(), "output"_a.noconvert(),
           "quantised"_a, "threads"_a, "memory"_a = kAnyMemory)
      .def("arena_bytes", &Program::arena_bytes, "batch"_a)
      .def("describe", &Program::describe);
});

}  // namespace
}  // namespace mulfree::runtime

// Class Program in Python.
#include "_native/bindings.h"

#include "_native/gil.h"
#include "program.h"

namespace mulfree::runtime {
namespace {

using namespace nb::literals;
using nodes::i64;
using nodes::Pair;
using nodes::u8;

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

std::string dtype(const nb::dlpack::dtype& type) {
  const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
  const char* kind = code == nb::dlpack::dtype_code::Float  ? "f"
                     : code == nb::dlpack::dtype_code::Int  ? "i"
                     : code == nb::dlpack::dtype_code::UInt ? "u"
                                                            : "other";
  return kind + std::to_string(type.bits);
}

// Fields of a node; arrays stay in the memory of Python.
nodes::Fields fields(const std::string& op, const nb::dict& given) {
  std::map<std::string, nodes::Fields::Field> out;
  for (const auto& [key, value] : given) {
    const auto name = nb::cast<std::string>(key);
    i64 number;
    Pair pair;
    AnyArray array;
    if (nb::try_cast(value, number, false)) {
      out[name] = number;
    } else if (nb::try_cast(value, pair, false)) {
      out[name] = pair;
    } else if (nb::try_cast(value, array, false)) {
      std::vector<i64> shape;
      for (std::size_t i = 0; i < array.ndim(); ++i) {
        shape.push_back(static_cast<i64>(array.shape(i)));
      }
      out[name] = nodes::Fields::Array{dtype(array.dtype()), std::move(shape), array.data()};
    } else {
      nodes::fail(op, name, "be a number, two numbers or a contiguous array",
                  nb::cast<std::string>(nb::str(nb::handle(value.type()))));
    }
  }
  return {op, std::move(out)};
}

std::vector<std::string> node_kernels() {
  std::vector<std::string> ops;
  for (const auto& [op, kernel] : nodes::node_kernels()) ops.push_back(op);
  return ops;
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

void run_exits(Program& program, const Array<const u8, 4>& input, const Array<float, 2>& output,
               const Array<i64, 1>& taken, std::vector<double> thresholds, bool entropy,
               bool quantised, int threads, i64 memory) {
  const Exits exits{std::move(thresholds), entropy};
  try {
    const gil::Released unlocked;
    program.run_exits(input.data(), shape(input), output.data(), shape(output), taken.data(),
                      size(taken), exits, quantised, threads, memory, raised);
  } catch (const Interruption&) {
    throw nb::python_error();
  }
}

const Binding binding([](nb::module_& m) {
  m.def("node_kernels", &node_kernels);
  nb::class_<nodes::WeightPool>(m, "WeightPool")
      .def(nb::init<>())
      .def("__len__", &nodes::WeightPool::size)
      .def_prop_ro("bytes", &nodes::WeightPool::bytes);
  nb::class_<Program>(m, "Program")
      .def(nb::init<const std::string&, nodes::WeightPool*>(), nb::keep_alive<1, 3>(), "isa"_a = "",
           "pool"_a = nb::none())
      .def("value", &Program::value, "channels"_a, "height"_a, "width"_a, "zero"_a)
      .def(
          "input",
          [](Program& self, i64 y, const Array<const u8, 2>& table) {
            self.input(y, table.data(), shape(table));
          },
          "y"_a, "table"_a.noconvert())
      .def(
          "append",
          [](Program& self, const std::string& op, const std::vector<i64>& reads,
             std::optional<i64> writes,
             const nb::dict& given) { self.append(reads, writes, fields(op, given)); },
          "op"_a, "reads"_a, "writes"_a.none(), "fields"_a)
      .def("lifetimes",
           [](Program& self) {
             std::vector<std::tuple<i64, i64, i64>> out;
             for (const Lifetime& life : self.lifetimes()) {
               out.emplace_back(life.bytes, life.first, life.last);
             }
             return out;
           })
      .def("compile", &Program::compile, "offsets"_a, "size"_a)
      .def("run", &run<&Program::run>, "input"_a.noconvert(), "output"_a.noconvert(), "quantised"_a,
           "threads"_a, "memory"_a = kAnyMemory)
      .def("run_exits", &run_exits, "input"_a.noconvert(), "output"_a.noconvert(),
           "taken"_a.noconvert(), "thresholds"_a, "entropy"_a, "quantised"_a, "threads"_a,
           "memory"_a = kAnyMemory)
      .def("profile", &run<&Program::profile>, "input"_a.noconvert(), "output"_a.noconvert(),
           "quantised"_a, "threads"_a, "memory"_a = kAnyMemory)
      .def_prop_ro("arena_bytes", &Program::arena_bytes)
      .def("describe", &Program::describe);
});

}  // namespace
}  // namespace mulfree::runtime

#pragma once

#include <nanobind/nanobind.h>

namespace mulfree {

// Adds the integer kernels and class Program to the module.
void define_integer(nanobind::module_& m);

}  // namespace mulfree

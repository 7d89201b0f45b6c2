// Python module mulfree._native._core: every registered binding.
#include "bindings.h"

namespace mulfree {

std::vector<Binding::Define>& Binding::all() {
  static std::vector<Define> defines;
  return defines;
}

}  // namespace mulfree

NB_MODULE(_core, m) {
  // Objects in use by threads at exit, and objects abandoned by forks, leak by design.
  mulfree::nb::set_leak_warnings(false);
  for (const auto define : mulfree::Binding::all()) define(m);
}

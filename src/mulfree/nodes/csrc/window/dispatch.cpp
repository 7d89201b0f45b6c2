// The choice of integer kernels; compiled for the baseline instruction set.
#include "_native/sliding/isa.h"
#include "packed_layer.h"

namespace mulfree::nodes {
namespace {

constexpr sliding::IsaKernels<Kernels> kKernels[] = {
#include "kernels.inc"
};

}  // namespace

std::vector<std::string> supported_isas() { return sliding::supported(kKernels); }

const Kernels& select_kernels(const std::string& function, const std::string& isa) {
  return sliding::chosen_kernels(kKernels, function, isa);
}

}  // namespace mulfree::nodes

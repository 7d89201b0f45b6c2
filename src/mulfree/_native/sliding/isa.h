// The choice among kernels that are compiled for several instruction sets.
// For baseline translation units, as everything of external linkage.
#pragma once

#include <string>
#include <vector>

namespace mulfree::sliding {

// Returns true if this machine runs `isa`, a name in a kernels.inc.
bool runs_here(const std::string& isa);

template <class Kernels>
struct IsaKernels {
  const char* isa;
  const Kernels* kernels;
};

// Entries of a kernels.inc for this architecture, as in
//   constexpr IsaKernels<K> kKernels[] = {
//   #include "kernels.inc"
//   };
#if defined(__x86_64__) || defined(__i386__)
#define MULFREE_ENTRY_x86(isa) {#isa, &kernels_##isa},
#else
#define MULFREE_ENTRY_x86(isa)
#endif
#if defined(__aarch64__)
#define MULFREE_ENTRY_arm(isa) {#isa, &kernels_##isa},
#else
#define MULFREE_ENTRY_arm(isa)
#endif
#define MULFREE_ENTRY_any(isa) {#isa, &kernels_##isa},
#define MULFREE_KERNEL(isa, architecture, flags) MULFREE_ENTRY_##architecture(isa)

// Instruction sets of a list that this machine runs, best first.
template <class List>
std::vector<std::string> supported(const List& list) {
  std::vector<std::string> isas;
  for (const auto& entry : list) {
    if (runs_here(entry.isa)) isas.emplace_back(entry.isa);
  }
  return isas;
}

// One of `isas`: `wanted`, or for "" the value of MULFREE_ISA, or else the best. MULFREE_ISA may
// name the set without VNNI: avx512 selects avx512vnni where `isas` has it.
std::string chosen_isa(const std::string& function, const std::string& wanted,
                       const std::vector<std::string>& isas);

// The kernels of a list for the chosen instruction set.
template <class List>
const auto& chosen_kernels(const List& list, const std::string& function, const std::string& isa) {
  const std::string chosen = chosen_isa(function, isa, supported(list));
  const auto* entry = list;
  while (chosen != entry->isa) ++entry;
  return *entry->kernels;
}

}  // namespace mulfree::sliding

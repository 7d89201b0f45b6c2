// The choice of integer kernels; compiled for the baseline instruction set.
#include <cstdlib>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "packed_layer.h"

namespace mulfree::nodes {
namespace {

struct Entry {
  const char* isa;
  bool (*runs_here)();
  const Kernels* kernels;
};

#if defined(__x86_64__) || defined(__i386__)
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && runs_avx2();
}

bool runs_avx512vnni() { return runs_avx512() && __builtin_cpu_supports("avx512vnni"); }
#define MULFREE_ENTRY_x86(isa) {#isa, runs_##isa, &kernels_##isa},
#else
#define MULFREE_ENTRY_x86(isa)
#endif

#if defined(__aarch64__)
bool runs_neon() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // every Mac
#endif
}
#define MULFREE_ENTRY_arm(isa) {#isa, runs_##isa, &kernels_##isa},
#else
#define MULFREE_ENTRY_arm(isa)
#endif

bool runs_scalar() { return true; }
#define MULFREE_ENTRY_any(isa) {#isa, runs_##isa, &kernels_##isa},

#define MULFREE_KERNEL(isa, arch, flags) MULFREE_ENTRY_##arch(isa)
constexpr Entry kEntries[] = {
#include "kernels.inc"
};
#undef MULFREE_KERNEL

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) {
    if (entry.runs_here()) names.emplace_back(entry.isa);
  }
  return names;
}

const Kernels& select_kernels(const std::string& function, const std::string& isa) {
  const char* forced = std::getenv("MULFREE_ISA");
  const bool from_environment = isa.empty() && forced != nullptr;
  const std::string wanted = from_environment ? forced : isa;
  std::string names;
  for (const Entry& entry : kEntries) {
    if (!entry.runs_here()) continue;
    const std::string name = entry.isa;
    if (wanted.empty() || wanted == name || (from_environment && wanted + "vnni" == name)) {
      return *entry.kernels;
    }
    names += (names.empty() ? "" : ", ") + name;
  }
  fail(function, from_environment ? "MULFREE_ISA" : "isa",
       "be one of " + names + " on this machine", "'" + wanted + "'");
}

}  // namespace mulfree::nodes

#include "isa.h"

#include <cstdlib>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "checks.h"

namespace mulfree::sliding {

bool runs_here(const std::string& isa) {
  if (isa == "scalar") return true;
#if defined(__x86_64__) || defined(__i386__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  if (isa == "avx2") return true;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) {
    return false;
  }
  return isa == "avx512" || (isa == "avx512vnni" && __builtin_cpu_supports("avx512vnni"));
#elif defined(__aarch64__) && defined(__linux__)
  return isa == "neon" && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return isa == "neon";  // every Mac
#endif
}

std::string chosen_isa(const std::string& function, const std::string& wanted,
                       const std::vector<std::string>& isas) {
  const char* const variable = wanted.empty() ? std::getenv("MULFREE_ISA") : nullptr;
  const std::string named = variable == nullptr ? wanted : variable;
  std::string names;
  for (const std::string& isa : isas) {
    if (named.empty() || isa == named || (variable != nullptr && isa == named + "vnni")) return isa;
    names += (names.empty() ? "" : ", ") + isa;
  }
  fail(function, variable == nullptr ? "isa" : "MULFREE_ISA",
       "be one of " + names + " on this machine", "'" + named + "'");
}

}  // namespace mulfree::sliding

// Argument checks and the choice of kernels; compiled for the baseline instruction set.
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "adder2d.h"

namespace mulfree::adder2d {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("adder2d: " + message);
}

std::string text(const Shape& s) {
  std::string out = "[";
  for (std::size_t i = 0; i < s.size(); ++i) out += (i ? ", " : "") + std::to_string(s[i]);
  return out + "]";
}

std::string text(Pair p) {
  return "(" + std::to_string(p.first) + ", " + std::to_string(p.second) + ")";
}

// Window arguments above this bound have no use and would only complicate overflow proofs.
constexpr std::int64_t kMaxExtent = std::numeric_limits<std::int32_t>::max();

void check_pair(const char* name, Pair value, std::int64_t least) {
  if (value.first < least || value.second < least || value.first > kMaxExtent ||
      value.second > kMaxExtent) {
    fail(std::string("`") + name + "` must be " + (least ? "positive" : "non-negative") +
         " and below 2**31, got " + text(value));
  }
}

void check_size(const char* name, const Shape& shape) {
  // Byte offsets of a tensor must fit ptrdiff_t with room for the strides of a whole row.
  std::int64_t size = static_cast<std::int64_t>(sizeof(double));
  for (const std::int64_t extent : shape) {
    if (extent < 0 || extent > kMaxExtent || __builtin_mul_overflow(size, extent, &size)) {
      fail(std::string("`") + name + "` must have an addressable size, got " + text(shape));
    }
  }
}

std::int64_t output_extent(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                           std::int64_t padding, std::int64_t dilation) {
  const std::int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

struct Kernel {
  const char* isa;
  bool (*runs_here)();
  const Kernels<float>* f32;
};

#if defined(__x86_64__) || defined(__i386__)
bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#define MULFREE_ENTRY_x86(isa) {#isa, runs_##isa, &kernels_##isa},
#else
#define MULFREE_ENTRY_x86(isa)
#endif

bool runs_scalar() { return true; }
#define MULFREE_ENTRY_any(isa) {#isa, runs_##isa, &kernels_##isa},

#define MULFREE_KERNEL(isa, arch, flags) MULFREE_ENTRY_##arch(isa)
constexpr Kernel kKernels[] = {
#include "kernels.inc"
};
#undef MULFREE_KERNEL

}  // namespace

Geometry make_geometry(const Shape& x, const Shape& weight, Pair stride, Pair padding,
                       Pair dilation, std::int64_t groups) {
  check_size("input", x);
  check_size("weight", weight);
  check_pair("stride", stride, 1);
  check_pair("padding", padding, 0);
  check_pair("dilation", dilation, 1);
  if (weight[2] < 1 || weight[3] < 1) {
    fail("`weight` must have a positive kernel size, got " + text(weight));
  }
  if (groups < 1 || x[1] % groups != 0 || weight[0] % groups != 0) {
    fail("`groups` must be positive and divide the " + std::to_string(x[1]) + " input and " +
         std::to_string(weight[0]) + " output channels, got " + std::to_string(groups));
  }
  check_shape("weight", {weight[0], x[1] / groups, weight[2], weight[3]}, weight);
  Geometry geo{};
  geo.n = x[0], geo.c = x[1], geo.h = x[2], geo.w = x[3];
  geo.co = weight[0], geo.kh = weight[2], geo.kw = weight[3];
  geo.sh = stride.first, geo.sw = stride.second;
  geo.ph = padding.first, geo.pw = padding.second;
  geo.dh = dilation.first, geo.dw = dilation.second;
  geo.groups = groups;
  geo.ho = output_extent(geo.h, geo.kh, geo.sh, geo.ph, geo.dh);
  geo.wo = output_extent(geo.w, geo.kw, geo.sw, geo.pw, geo.dw);
  if (geo.ho < 1 || geo.wo < 1) {
    fail("`weight` must fit the padded input, got kernel " + text(Pair{geo.kh, geo.kw}) +
         " with dilation " + text(dilation) + " on input " + text(x) + " with padding " +
         text(padding));
  }
  check_size("out", {geo.n, geo.co, geo.ho, geo.wo});
  return geo;
}

int useful_threads(const Geometry& geo, int threads) {
  constexpr double kGrain = 1 << 18;
  double taps = 1;
  for (const std::int64_t extent :
       {geo.n, geo.co, geo.ho, geo.wo, geo.c / geo.groups, geo.kh, geo.kw}) {
    taps *= static_cast<double>(extent);
  }
  return taps / kGrain < threads ? 1 + static_cast<int>(taps / kGrain) : threads;
}

void check_shape(const char* name, const Shape& want, const Shape& got) {
  if (want != got) {
    fail(std::string("`") + name + "` must have shape " + text(want) + ", got " + text(got));
  }
}

Rule parse_rule(const std::string& name) {
  if (name == "adder") return Rule::adder;
  if (name == "sign") return Rule::sign;
  fail("`rule` must be one of adder, sign, got '" + name + "'");
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernel& kernel : kKernels) {
    if (kernel.runs_here()) names.emplace_back(kernel.isa);
  }
  return names;
}

template <class T>
const Kernels<T>& select_kernels(const std::string& isa) {
  const char* forced = std::getenv("MULFREE_ISA");
  const bool from_environment = isa.empty() && forced != nullptr && *forced != '\0';
  const std::string wanted = from_environment ? forced : isa;
  std::string names;
  for (const Kernel& kernel : kKernels) {
    if (!kernel.runs_here()) continue;
    if (wanted.empty() || wanted == kernel.isa) {
      // Only the portable kernels are written for float64.
      if constexpr (std::is_same_v<T, double>) {
        return kernels_scalar_f64;
      } else {
        return *kernel.f32;
      }
    }
    names += (names.empty() ? "" : ", ") + std::string(kernel.isa);
  }
  fail(std::string("`") + (from_environment ? "MULFREE_ISA" : "isa") + "` must be one of " + names +
       " on this machine, got '" + wanted + "'");
}

template const Kernels<float>& select_kernels<float>(const std::string& isa);
template const Kernels<double>& select_kernels<double>(const std::string& isa);

}  // namespace mulfree::adder2d

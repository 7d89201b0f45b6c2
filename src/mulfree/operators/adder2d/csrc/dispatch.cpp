// Argument checks and the choice of kernels; compiled for the baseline instruction set.
#include <limits>
#include <type_traits>

#include "_native/sliding/checks.h"
#include "_native/sliding/isa.h"
#include "adder2d.h"

namespace mulfree::adder2d {
namespace {

[[noreturn]] void fail(const char* argument, const std::string& requirement,
                       const std::string& got) {
  sliding::fail("adder2d", argument, requirement, got);
}

std::string text(const Shape& s) {
  return sliding::text(std::vector<std::int64_t>(s.begin(), s.end()));
}

// Window arguments above this bound have no use and would only complicate overflow proofs.
constexpr std::int64_t kMaxExtent = std::numeric_limits<std::int32_t>::max();

void check_pair(const char* name, Pair value, std::int64_t lowest) {
  if (value.first < lowest || value.second < lowest || value.first > kMaxExtent ||
      value.second > kMaxExtent) {
    fail(name, std::string("be ") + (lowest ? "positive" : "non-negative") + " and below 2**31",
         sliding::text(value));
  }
}

void check_size(const char* name, const Shape& shape) {
  // Byte offsets of a tensor must fit ptrdiff_t with room for the strides of a whole row.
  std::int64_t size = static_cast<std::int64_t>(sizeof(double));
  for (const std::int64_t extent : shape) {
    if (extent < 0 || extent > kMaxExtent || __builtin_mul_overflow(size, extent, &size)) {
      fail(name, "have an addressable size", text(shape));
    }
  }
}

constexpr sliding::IsaKernels<Kernels<float>> kKernels[] = {
#include "kernels.inc"
};

}  // namespace

Geometry make_geometry(const Shape& x, const Shape& weight, Pair stride, Pair padding,
                       Pair dilation, std::int64_t groups) {
  check_size("input", x);
  check_size("weight", weight);
  check_pair("stride", stride, 1);
  check_pair("padding", padding, 0);
  check_pair("dilation", dilation, 1);
  if (weight[2] < 1 || weight[3] < 1) {
    fail("weight", "have a positive kernel size", text(weight));
  }
  if (groups < 1 || x[1] % groups != 0 || weight[0] % groups != 0) {
    fail("groups",
         "be positive and divide the " + std::to_string(x[1]) + " input and " +
             std::to_string(weight[0]) + " output channels",
         std::to_string(groups));
  }
  check_shape("weight", {weight[0], x[1] / groups, weight[2], weight[3]}, weight);
  Geometry geo{};
  geo.n = x[0], geo.c = x[1], geo.h = x[2], geo.w = x[3];
  geo.co = weight[0], geo.kh = weight[2], geo.kw = weight[3];
  geo.sh = stride.first, geo.sw = stride.second;
  geo.ph = padding.first, geo.pw = padding.second;
  geo.dh = dilation.first, geo.dw = dilation.second;
  geo.groups = groups;
  geo.ho = sliding::window_count(geo.h, geo.kh, geo.sh, geo.ph, geo.dh);
  geo.wo = sliding::window_count(geo.w, geo.kw, geo.sw, geo.pw, geo.dw);
  if (geo.ho < 1 || geo.wo < 1) {
    fail("weight", "fit the padded input",
         "kernel " + sliding::text(Pair{geo.kh, geo.kw}) + " with dilation " +
             sliding::text(dilation) + " on input " + text(x) + " with padding " +
             sliding::text(padding));
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
    fail(name, "have shape " + text(want), text(got));
  }
}

Rule parse_rule(const std::string& name) {
  if (name == "adder") return Rule::adder;
  if (name == "sign") return Rule::sign;
  fail("rule", "be one of adder, sign", "'" + name + "'");
}

std::vector<std::string> supported_isas() { return sliding::supported(kKernels); }

template <class T>
const Kernels<T>& select_kernels(const std::string& isa) {
  [[maybe_unused]] const Kernels<float>& chosen = sliding::chosen_kernels(kKernels, "adder2d", isa);
  // Only the portable kernels are written for float64.
  if constexpr (std::is_same_v<T, double>) {
    return kernels_scalar_f64;
  } else {
    return chosen;
  }
}

template const Kernels<float>& select_kernels<float>(const std::string& isa);
template const Kernels<double>& select_kernels<double>(const std::string& isa);

}  // namespace mulfree::adder2d

// Interface of the adder2d kernels: y = -sum |x - w| over sliding windows, and its gradients.
// Plain data only: this header is read by translation units of every instruction set, so it
// must not define functions that the linker could take from the wrong one.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mulfree::adder2d {

using Shape = std::array<std::int64_t, 4>;
using Pair = std::pair<std::int64_t, std::int64_t>;

// The rule by which a gradient is formed from the difference of the two operands.
//   adder: dX = clamp(w - x, -1, 1) * g,  dW = (x - w) * g
//   sign:  dX = sign(w - x) * g,          dW = sign(x - w) * g
enum class Rule { adder, sign };

// x [n, c, h, w], weight [co, c / groups, kh, kw], out [n, co, ho, wo]; all C-contiguous.
struct Geometry {
  std::int64_t n, c, h, w;
  std::int64_t co, kh, kw;
  std::int64_t sh, sw, ph, pw, dh, dw, groups;
  std::int64_t ho, wo;
};

// One set of kernels. The results do not depend on `threads`.
template <class T>
struct Kernels {
  void (*forward)(const Geometry& geo, const T* x, const T* weight, T* out, int threads);
  void (*input_grad)(const Geometry& geo, Rule rule, const T* g, const T* x, const T* weight,
                     T* out, int threads);
  void (*weight_grad)(const Geometry& geo, Rule rule, const T* g, const T* x, const T* weight,
                      T* out, int threads);
  // The same with x, g and out (of the weights' gradient: x and g) in channels_last, [n, h, w, c].
  // They return false, with `out` not complete, where there is no such kernel: for other than
  // depthwise convolutions, and for gradients of values that are not finite.
  bool (*last_forward)(const Geometry& geo, const T* x, const T* weight, T* out, int threads);
  bool (*last_input_grad)(const Geometry& geo, Rule rule, const T* g, const T* x, const T* weight,
                          T* out, int threads);
  bool (*last_weight_grad)(const Geometry& geo, Rule rule, const T* g, const T* x, const T* weight,
                           T* out, int threads);
};

extern const Kernels<float> kernels_avx512;
extern const Kernels<float> kernels_avx2;
extern const Kernels<float> kernels_scalar;
extern const Kernels<double> kernels_scalar_f64;

// Checks shapes and window arguments; throws std::invalid_argument with a one-line message.
Geometry make_geometry(const Shape& x, const Shape& weight, Pair stride, Pair padding,
                       Pair dilation, std::int64_t groups);

// Useful number of threads, at most `threads`: waking one takes as long as some 2^18 taps.
int useful_threads(const Geometry& geo, int threads);

// Checks that `got`, the shape of argument `name`, is `want`.
void check_shape(const char* name, const Shape& want, const Shape& got);

Rule parse_rule(const std::string& name);

// Instruction sets that are compiled in and that this machine runs, best first.
std::vector<std::string> supported_isas();

// Kernels of instruction set `isa`; "" means MULFREE_ISA when set, else the best one.
template <class T>
const Kernels<T>& select_kernels(const std::string& isa);

}  // namespace mulfree::adder2d

// Runs every adder2d kernel that this machine supports over a grid of geometries, in heap blocks
// of exactly the size of each tensor. Built with AddressSanitizer and UBSan: a read or write
// outside a tensor, or an undefined operation, ends the program. Prints the number of runs.
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <vector>

#include "operators/adder2d/csrc/adder2d.h"

namespace {

using mulfree::adder2d::Geometry;
using mulfree::adder2d::Rule;
using mulfree::adder2d::Shape;

std::int64_t count(const Shape& s) { return s[0] * s[1] * s[2] * s[3]; }

// A heap block without spare capacity; values repeat, with zeros and both signs among them.
template <class T>
std::vector<T> values(std::int64_t size, int seed, bool signed_values) {
  std::vector<T> out(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int step = static_cast<int>((i * 37 + static_cast<std::size_t>(seed)) % 23);
    out[i] = static_cast<T>(signed_values ? step - 11 : step) / 8;
  }
  return out;
}

template <class T>
int run(const Shape& x_shape, const Shape& w_shape, const Geometry& geo) {
  const Shape out_shape = {geo.n, geo.co, geo.ho, geo.wo};
  int runs = 0;
  for (const std::string& isa : mulfree::adder2d::supported_isas()) {
    const auto& kernels = mulfree::adder2d::select_kernels<T>(isa);
    for (const bool signed_values : {false, true}) {
      auto x = values<T>(count(x_shape), 1, signed_values);
      auto w = values<T>(count(w_shape), 2, true);
      const auto g = values<T>(count(out_shape), 3, true);
      constexpr int kThreads = 2;
      auto out = values<T>(count(out_shape), 0, true);
      kernels.forward(geo, x.data(), w.data(), out.data(), kThreads);
      const Rule rule = signed_values ? Rule::sign : Rule::adder;
      auto dx = values<T>(count(x_shape), 0, true);
      kernels.input_grad(geo, rule, g.data(), x.data(), w.data(), dx.data(), kThreads);
      auto dw = values<T>(count(w_shape), 0, true);
      kernels.weight_grad(geo, rule, g.data(), x.data(), w.data(), dw.data(), kThreads);
      // The same blocks as images in channels_last, which depthwise geometries may be.
      kernels.last_forward(geo, x.data(), w.data(), out.data(), kThreads);
      kernels.last_input_grad(geo, rule, g.data(), x.data(), w.data(), dx.data(), kThreads);
      kernels.last_weight_grad(geo, rule, g.data(), x.data(), w.data(), dw.data(), kThreads);
      // Gradients of values that are not finite are formed in other ways.
      if (!x.empty()) x.back() = std::numeric_limits<T>::quiet_NaN();
      if (!w.empty()) w.front() = std::numeric_limits<T>::infinity();
      kernels.input_grad(geo, rule, g.data(), x.data(), w.data(), dx.data(), kThreads);
      kernels.weight_grad(geo, rule, g.data(), x.data(), w.data(), dw.data(), kThreads);
      ++runs;
    }
  }
  return runs;
}

}  // namespace

int main() {
  int runs = 0;
  for (const std::int64_t n : {0, 2}) {
    for (const auto& [c, co, groups] :
         {std::array<std::int64_t, 3>{1, 1, 1}, {3, 17, 1}, {4, 6, 2}, {9, 9, 9}, {48, 48, 48}}) {
      for (const auto& [h, w] :
           {std::array<std::int64_t, 2>{1, 1}, {5, 7}, {4, 16}, {3, 50}, {2, 64}}) {
        for (const std::int64_t kernel : {1, 2, 3, 5}) {
          for (const std::int64_t stride : {1, 2, 3}) {
            for (const std::int64_t padding : {0, 2}) {
              for (const std::int64_t dilation : {1, 2}) {
                const Shape x = {n, c, h, w}, weight = {co, c / groups, kernel, kernel};
                Geometry geo{};
                try {
                  geo = mulfree::adder2d::make_geometry(x, weight, {stride, stride},
                                                        {padding, padding}, {dilation, dilation},
                                                        groups);
                } catch (const std::invalid_argument&) {
                  continue;  // the kernel does not fit
                }
                runs += run<float>(x, weight, geo);
                if (stride == 2) runs += run<double>(x, weight, geo);
              }
            }
          }
        }
      }
    }
  }
  std::printf("%d\n", runs);
  return runs > 0 ? 0 : 1;
}

// The kernels of an instruction set: those for depthwise convolutions where the geometry is one.
#pragma once

#include "depthwise/channels_last.h"

namespace mulfree::adder2d {
namespace {

template <class V>
void any_forward(const Geometry& geo, const typename V::T* x, const typename V::T* weight,
                 typename V::T* out, int threads) {
  if (is_depthwise<V>(geo)) return depthwise_forward<V>(geo, x, weight, out, threads);
  forward<V>(geo, x, weight, out, threads);
}

template <class V>
void any_input_grad(const Geometry& geo, Rule rule, const typename V::T* g, const typename V::T* x,
                    const typename V::T* weight, typename V::T* out, int threads) {
  if (!is_depthwise<V>(geo)) return input_grad<V>(geo, rule, g, x, weight, out, threads);
  if (rule == Rule::sign) {
    depthwise_input_grad<V, Rule::sign>(geo, g, x, weight, out, threads);
  } else {
    depthwise_input_grad<V, Rule::adder>(geo, g, x, weight, out, threads);
  }
}

template <class V>
void any_weight_grad(const Geometry& geo, Rule rule, const typename V::T* g, const typename V::T* x,
                     const typename V::T* weight, typename V::T* out, int threads) {
  if (!is_depthwise<V>(geo)) return weight_grad<V>(geo, rule, g, x, weight, out, threads);
  if (rule == Rule::sign) {
    depthwise_weight_grad<V, Rule::sign>(geo, g, x, weight, out, threads);
  } else {
    depthwise_weight_grad<V, Rule::adder>(geo, g, x, weight, out, threads);
  }
}

template <class V>
bool any_last_input_grad(const Geometry& geo, Rule rule, const typename V::T* g,
                         const typename V::T* x, const typename V::T* weight, typename V::T* out,
                         int threads) {
  if (rule == Rule::sign) {
    return last_input_grad<V, Rule::sign>(geo, g, x, weight, out, threads);
  }
  return last_input_grad<V, Rule::adder>(geo, g, x, weight, out, threads);
}

template <class V>
bool any_last_weight_grad(const Geometry& geo, Rule rule, const typename V::T* g,
                          const typename V::T* x, const typename V::T* weight, typename V::T* out,
                          int threads) {
  if (rule == Rule::sign) {
    return last_weight_grad<V, Rule::sign>(geo, g, x, weight, out, threads);
  }
  return last_weight_grad<V, Rule::adder>(geo, g, x, weight, out, threads);
}

template <class V>
constexpr Kernels<typename V::T> make_kernels() {
  return {any_forward<V>,  any_input_grad<V>,      any_weight_grad<V>,
          last_forward<V>, any_last_input_grad<V>, any_last_weight_grad<V>};
}

}  // namespace
}  // namespace mulfree::adder2d

// What the two poolings share.
#pragma once

#include "native_op.h"

namespace mulfree::nodes {

// Holds where windows overlap so much that taking rows and columns one after the other, in
// `passes` over the image, is worth the memory.
inline bool worth_passes(Pair kernel, const Value& outputs, Pair image, int passes) {
  const auto area = [](i64 rows, i64 columns) {
    return static_cast<double>(rows) * static_cast<double>(columns);
  };
  return area(outputs.h, outputs.w) * area(kernel.first, kernel.second) >
         4.0 * passes * area(image.first, image.second);
}

}  // namespace mulfree::nodes

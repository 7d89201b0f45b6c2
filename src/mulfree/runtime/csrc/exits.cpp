#include "exits.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mulfree::runtime {

double confidence(bool entropy, const float* logits, i64 classes) {
  double largest = logits[0];
  for (i64 i = 0; i < classes; ++i) {
    if (!std::isfinite(logits[i])) return std::numeric_limits<double>::quiet_NaN();
    largest = std::max(largest, static_cast<double>(logits[i]));
  }
  double sum = 0, weighted = 0;
  for (i64 i = 0; i < classes; ++i) {
    const double difference = logits[i] - largest;
    const double power = std::exp(difference);
    sum += power;
    weighted += difference * power;
  }
  if (!entropy) return 1 / sum;
  if (classes == 1) return 1;
  return 1 - (std::log(sum) - weighted / sum) / std::log(static_cast<double>(classes));
}

bool Gate::decide(const float* logits) {
  const Output& output = outputs_[number_];
  const double own = confidence(exits_->entropy, logits + output.first, output.size);
  if (own >= exits_->thresholds[number_]) return true;
  ++number_;
  return false;
}

}  // namespace mulfree::runtime

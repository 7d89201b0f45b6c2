// Early exit: an image leaves a program at the first output that is confident enough.
#pragma once

#include <string>
#include <vector>

#include "nodes/csrc/fields.h"

namespace mulfree::runtime {

using nodes::i64;

// An output in the row of an image, complete once the first `ops` ops have run.
struct Output {
  std::size_t ops;
  i64 first, size;
};

// Of each output but the last the least confidence for leaving.
struct Exits {
  std::vector<double> thresholds;
  bool entropy;
};

// Confidence of logits in [0, 1], NaN if one is not finite: the largest probability, or 1 minus the
// entropy over its largest value. The arithmetic of `mulfree.runtime.confidence`, to the last bit.
double confidence(bool entropy, const float* logits, i64 classes);

// Follows one image through the outputs; every thread that works on the image has one of its own,
// and all decide alike.
class Gate {
 public:
  // Without exits no image leaves.
  Gate(const Exits* exits, const std::vector<Output>& outputs)
      : exits_(exits), outputs_(outputs.data()) {}

  // Called before each op with its number: true if the image leaves.
  bool leaves(std::size_t op, const float* logits) {
    if (exits_ == nullptr || number_ == exits_->thresholds.size()) return false;
    return op == outputs_[number_].ops && decide(logits);
  }

  // The exit that the image takes, once it leaves or all ops have run.
  std::size_t number() const { return number_; }

 private:
  bool decide(const float* logits);

  const Exits* exits_;
  const Output* outputs_;
  std::size_t number_ = 0;
};

}  // namespace mulfree::runtime

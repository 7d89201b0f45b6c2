// Window layers over u8 images: packed weights, an epilogue, and tasks for threads.
// For baseline translation units.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "packed_weights.h"

namespace mulfree::nodes {

// Fields of the fixed-point epilogue, without the rounding term in `offset`.
struct Requantisation {
  std::vector<i32> multiplier;
  std::vector<i64> offset;
  i64 shift, low, high;
  i32 residual_multiplier;
};

// One layer.
class PackedLayer {
 public:
  PackedLayer(std::shared_ptr<const PackedWeights> weights, const Geometry& geometry,
              const Requantisation& requantisation);

  // Bytes from one row of the image to the next; before the first `run`.
  void set_row(i64 bytes);
  // The layer that is run after this one: its first weights are prefetched.
  void set_next(const PackedLayer* layer) { next_ = layer; }

  const char* name() const { return weights_->kernel().name; }
  const Geometry& geometry() const { return geometry_; }
  // Tasks of one image, enough for `team` threads. Results do not depend on their number.
  i64 tasks(int team) const;
  // The filters [first, last) of one of `tasks(1)` tasks.
  Pair filters(i64 task) const;
  // `image.x` is the first byte of the padded image's first window.
  void run(const Image& image, i64 task, i64 tasks) const;

 private:
  // The weights of a filter tile; after the last one, the first of the next layer.
  Prefetch prefetch(std::size_t filter_tile) const;

  const std::shared_ptr<const PackedWeights> weights_;
  Geometry geometry_;
  const PackedLayer* next_ = nullptr;
  std::vector<i32> multiplier_;
  std::vector<i64> offset_;
  std::vector<i64> run_offsets_;
  KernelLayer layer_;
};

// Instruction sets with integer kernels that this machine runs, best first.
std::vector<std::string> supported_isas();

// Kernels of instruction set `isa`; "" means MULFREE_ISA when set, else the best one. MULFREE_ISA
// may name a set of the float kernels, avx512, whose integer kernels are those with VNNI if any.
const Kernels& select_kernels(const std::string& function, const std::string& isa);

// out i32 [n, ho, wo, o]: the bare sums of x [n, h, w, c] with a border of `zero`.
void window_sums(const Kernels& kernels, Op op, const Geometry& geometry, i64 n, const u8* x,
                 int zero, const void* weight, i32* out, int threads);

}  // namespace mulfree::nodes

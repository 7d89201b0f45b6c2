// Window layers over u8 images: argument checks, packed weights, and the choice of kernels.
// For baseline translation units; errors are std::invalid_argument with a one-line message.
#pragma once

#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "_native/sliding/checks.h"
#include "kernels.h"

namespace mulfree::nodes {

using sliding::fail;
using sliding::text;
using sliding::window_count;

using Pair = std::pair<i64, i64>;

// Extents and sizes in bytes of single tensors stay below this.
constexpr i64 kMaxBytes = i64{1} << 31;

// Zeros, aligned to a cache line (and to a zmm register).
class Memory {
 public:
  Memory() = default;
  explicit Memory(i64 bytes);
  u8* data() { return data_.get(); }
  const u8* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(u8* data) const { std::free(data); }
  };
  std::unique_ptr<u8, Free> data_;
};

// The product of non-negative numbers, capped at kMaxBytes.
i64 bounded_product(std::initializer_list<i64> factors);

enum class Op { adder, conv };

// An image [h, w, c], o filters [kh, kw, c / groups], their output [ho, wo, o].
struct Geometry {
  i64 c, h, w;
  i64 o, kh, kw;
  Pair stride, padding;  // above, left
  i64 groups;
  i64 ho, wo;
  Pair border;  // the larger of the paddings above and below, left and right

  i64 summands() const { return kh * kw * (c / groups); }
};

// Checks the arguments of `function`, and that 32 bits hold every sum. `padding_excess`: further
// rows below and columns right.
Geometry make_geometry(const std::string& function, Op op, const std::array<i64, 3>& hwc,
                       const std::array<i64, 4>& weight, Pair stride, Pair padding, i64 groups,
                       Pair padding_excess = {0, 0});

// Fields of the fixed-point epilogue, without the rounding term in `offset`.
struct Requantisation {
  std::vector<i32> multiplier;
  std::vector<i64> offset;
  i64 shift, low, high;
  i32 residual_multiplier;
};

// One layer: weights packed for one set of kernels.
class PackedLayer {
 public:
  // `weight` is u8 (adder) or s8 (conv) [o, kh, kw, c / groups].
  PackedLayer(const Kernels& kernels, Op op, const Geometry& geometry, const void* weight,
              const Requantisation& requantisation);

  // Bytes from one row of the image to the next; before the first `run`.
  void set_row(i64 bytes);
  // The layer that is run after this one: its first weights are prefetched.
  void set_next(const PackedLayer* layer) { next_ = layer; }

  const char* name() const { return kernel_->name; }
  const Geometry& geometry() const { return geometry_; }
  // Tasks of one image, enough for `team` threads. Results do not depend on their number.
  i64 tasks(int team) const;
  // The filters [first, last) of one of `tasks(1)` tasks.
  Pair filters(i64 task) const;
  // `image.x` is the first byte of the padded image's first window.
  void run(const Image& image, i64 task, i64 tasks) const;

 private:
  void pack(Op op, const void* weight);
  // Cuts the filter tiles into groups whose weights fit the L2 cache beside the image: the pixels
  // of a task meet all filters of a group, a few at a time.
  void group_tiles();
  i64 groups_of_tiles() const { return static_cast<i64>(tile_groups_.size()) - 1; }
  i64 steps() const;
  i64 weight_bytes(const FilterTile& filter_tile) const;
  // The weights of a filter tile; after the last one, the first of the next layer.
  Prefetch prefetch(std::size_t filter_tile) const;

  Geometry geometry_;
  const Kernel* kernel_;
  const PackedLayer* next_ = nullptr;
  std::vector<i32> multiplier_;
  std::vector<i64> offset_;
  std::vector<i64> run_offsets_;
  std::vector<FilterTile> filter_tiles_;
  std::vector<std::size_t> tile_groups_;  // the first tile of each, and the number of tiles
  Memory weights_;
  Memory bias_;
  KernelLayer layer_;
  i64 packed_runs_;  // runs of the packed weights
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

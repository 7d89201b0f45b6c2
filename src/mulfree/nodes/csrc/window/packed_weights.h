// Weights of a window layer in the layout of its kernel, and a pool that shares them.
// For baseline translation units.
#pragma once

#include <cstdlib>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "geometry.h"

namespace mulfree::nodes {

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

// Immutable; independent of stride, padding and size of the image.
class PackedWeights {
 public:
  // `weight` is u8 (adder) or s8 (conv) [o, kh, kw, c / groups].
  PackedWeights(const Kernels& kernels, Op op, const Geometry& geometry, const void* weight);

  const Kernel& kernel() const { return *kernel_; }
  // Contiguous pieces of a window in the image.
  i64 runs() const { return runs_; }
  // Groups of filter tiles whose weights fit the L2 cache beside the image: the pixels of a task
  // meet all filters of a group, a few at a time.
  i64 groups() const { return static_cast<i64>(tile_groups_.size()) - 1; }
  // The filter tiles [first, last) of a group.
  std::pair<std::size_t, std::size_t> group(std::size_t number) const {
    return {tile_groups_[number], tile_groups_[number + 1]};
  }
  std::size_t tiles() const { return filter_tiles_.size(); }
  const FilterTile& tile(std::size_t number) const { return filter_tiles_[number]; }
  // The weights of a filter tile.
  Prefetch prefetch(std::size_t number) const;
  i64 bytes() const { return bytes_; }

 private:
  void cut(const Geometry& geometry, bool depthwise);
  void pack(Op op, i64 summands, const void* weight);
  void group_tiles();
  i64 weight_bytes(const FilterTile& filter_tile) const;

  const Kernel* kernel_;
  i64 runs_;
  i64 packed_runs_;  // runs of the packed weights
  i64 steps_;
  i64 bytes_ = 0;
  std::vector<FilterTile> filter_tiles_;
  std::vector<std::size_t> tile_groups_;  // the first tile of each, and the number of tiles
  Memory weights_;
  Memory bias_;
};

// Packed weights by the address of the weights: these must not change or end before the pool.
class WeightPool {
 public:
  // The weights of an earlier call with the same arguments, else packed now.
  std::shared_ptr<const PackedWeights> packed(const Kernels& kernels, Op op,
                                              const Geometry& geometry, const void* weight);
  std::size_t size() const { return packed_.size(); }
  i64 bytes() const;

 private:
  using Key = std::tuple<const Kernels*, Op, const void*, std::array<i64, 5>>;
  std::map<Key, std::shared_ptr<const PackedWeights>> packed_;
};

}  // namespace mulfree::nodes

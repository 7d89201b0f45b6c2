#include "packed_weights.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "_native/sliding/support.h"

namespace mulfree::nodes {

Memory::Memory(i64 bytes) {
  constexpr i64 kLine = 64;
  const auto size = static_cast<std::size_t>(sliding::round_up(std::max<i64>(bytes, 1), kLine));
  data_.reset(static_cast<u8*>(std::aligned_alloc(kLine, size)));
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, size);
}

PackedWeights::PackedWeights(const Kernels& kernels, Op op, const Geometry& geometry,
                             const void* weight) {
  const bool adder = op == Op::adder;
  const bool depthwise = geometry.groups == geometry.c && geometry.o == geometry.c &&
                         geometry.kh * geometry.kw <= kDepthwiseTaps;
  if (depthwise) {
    kernel_ = adder ? &kernels.adder_depthwise : &kernels.conv_depthwise;
  } else if (adder) {
    const bool narrow = geometry.o / geometry.groups <= kernels.narrow;
    kernel_ = narrow ? &kernels.adder_narrow : &kernels.adder;
  } else {
    kernel_ = geometry.summands() <= kShortWindow ? &kernels.conv_short : &kernels.conv;
  }
  // Without groups a kernel row is contiguous in the image; else only the channels of a group are.
  runs_ = geometry.groups == 1 && !depthwise ? geometry.kh : geometry.kh * geometry.kw;
  packed_runs_ = kernel_->format.whole ? 1 : runs_;
  steps_ =
      packed_runs_ * sliding::ceil_div(geometry.summands() / packed_runs_, kernel_->format.group);
  cut(geometry, depthwise);
  pack(op, geometry.summands(), weight);
  group_tiles();
}

void PackedWeights::cut(const Geometry& geometry, bool depthwise) {
  const Format& format = kernel_->format;
  const i64 sharing = depthwise ? geometry.o : geometry.o / geometry.groups;
  const i64 blocks = sliding::ceil_div(sharing, format.lanes);
  const i64 filter_tiles = sliding::ceil_div(blocks, format.blocks);
  for (i64 first = 0; first < geometry.o; first += sharing) {
    for (i64 b = 0; b < filter_tiles; ++b) {
      // Filter tiles of nearly the same size.
      const i64 begin = b * blocks / filter_tiles, end = (b + 1) * blocks / filter_tiles;
      const i64 filter = first + begin * format.lanes;
      const i64 group = filter / (geometry.o / geometry.groups);
      filter_tiles_.push_back({group * (geometry.c / geometry.groups), filter,
                               std::min(end * format.lanes, sharing) - begin * format.lanes,
                               end - begin, nullptr, nullptr});
    }
  }
}

void PackedWeights::group_tiles() {
  i64 bytes = kTileGroupBytes;
  for (std::size_t i = 0; i < filter_tiles_.size(); ++i) {
    const i64 more = weight_bytes(filter_tiles_[i]);
    if (bytes + more > kTileGroupBytes) {
      tile_groups_.push_back(i);
      bytes = 0;
    }
    bytes += more;
  }
  tile_groups_.push_back(filter_tiles_.size());
}

i64 PackedWeights::weight_bytes(const FilterTile& filter_tile) const {
  return filter_tile.blocks * steps_ * kernel_->format.step_bytes;
}

Prefetch PackedWeights::prefetch(std::size_t number) const {
  const FilterTile& filter_tile = filter_tiles_[number];
  return {filter_tile.weights, weight_bytes(filter_tile)};
}

void PackedWeights::pack(Op op, i64 summands, const void* weight) {
  const Format& format = kernel_->format;
  i64 blocks = 0;
  for (const FilterTile& filter_tile : filter_tiles_) blocks += filter_tile.blocks;
  weights_ = Memory(sliding::size_product(blocks, steps_ * format.step_bytes));
  const i64 bias_bytes = blocks * format.lanes * static_cast<i64>(sizeof(i32));
  bias_ = Memory(bias_bytes);
  bytes_ = blocks * steps_ * format.step_bytes + bias_bytes;
  u8* step = weights_.data();
  i32* bias = reinterpret_cast<i32*>(bias_.data());
  const i64 k = summands, run_bytes = k / packed_runs_;
  for (FilterTile& filter_tile : filter_tiles_) {
    filter_tile.weights = step;
    filter_tile.bias = bias;
    for (i64 run = 0; run < packed_runs_; ++run) {
      for (i64 i = 0; i < run_bytes; i += format.group) {
        for (i64 t = 0; t < filter_tile.filters; ++t) {
          u8* to = step + t / format.lanes * format.step_bytes;
          for (i64 j = 0; j < std::min(format.group, run_bytes - i); ++j) {
            const i64 at = (filter_tile.filter + t) * k + run * run_bytes + i + j;
            const int w = op == Op::adder ? int{static_cast<const u8*>(weight)[at]}
                                          : int{static_cast<const i8*>(weight)[at]};
            format.place(to, t % format.lanes, j, w);
            bias[t] += op == Op::adder ? -w : w;
          }
        }
        step += filter_tile.blocks * format.step_bytes;
      }
    }
    bias += filter_tile.blocks * format.lanes;
  }
}

std::shared_ptr<const PackedWeights> WeightPool::packed(const Kernels& kernels, Op op,
                                                        const Geometry& geometry,
                                                        const void* weight) {
  const std::array<i64, 5> shape{geometry.o, geometry.kh, geometry.kw, geometry.c, geometry.groups};
  auto& found = packed_[Key{&kernels, op, weight, shape}];
  if (found == nullptr) {
    found = std::make_shared<const PackedWeights>(kernels, op, geometry, weight);
  }
  return found;
}

i64 WeightPool::bytes() const {
  i64 total = 0;
  for (const auto& [key, weights] : packed_) total += weights->bytes();
  return total;
}

}  // namespace mulfree::nodes

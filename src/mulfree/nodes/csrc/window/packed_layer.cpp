#include "packed_layer.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "_native/sliding/support.h"

namespace mulfree::nodes {

Memory::Memory(i64 bytes) {
  constexpr i64 kLine = 64;
  const auto size = static_cast<std::size_t>(sliding::round_up(std::max<i64>(bytes, 1), kLine));
  data_.reset(static_cast<u8*>(std::aligned_alloc(kLine, size)));
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, size);
}

i64 bounded_product(std::initializer_list<i64> factors) {
  i64 product = 1;
  for (const i64 factor : factors) {
    if (factor == 0) return 0;
    product = factor >= (kMaxBytes + product - 1) / product ? kMaxBytes : product * factor;
  }
  return product;
}

Geometry make_geometry(const std::string& function, Op op, const std::array<i64, 3>& hwc,
                       const std::array<i64, 4>& weight, Pair stride, Pair padding, i64 groups,
                       Pair padding_excess) {
  const std::string weight_text = text(std::vector<i64>(weight.begin(), weight.end()));
  const std::string image_text = text(std::vector<i64>(hwc.begin(), hwc.end()));
  if (std::min({stride.first, stride.second}) < 1 ||
      std::max(stride.first, stride.second) >= kMaxBytes) {
    fail(function, "stride", "be positive and below 2**31", text(stride));
  }
  if (std::min(padding.first, padding.second) < 0 ||
      std::max(padding.first, padding.second) >= kMaxBytes) {
    fail(function, "padding", "be non-negative and below 2**31", text(padding));
  }
  const Pair after{padding.first + padding_excess.first, padding.second + padding_excess.second};
  if (std::min(after.first, after.second) < 0 || std::max(after.first, after.second) >= kMaxBytes) {
    fail(function, "padding_excess", "leave paddings from 0 to below 2**31", text(padding_excess));
  }
  if (groups < 1 || hwc[2] % groups != 0 || weight[0] % groups != 0) {
    fail(function, "groups",
         "be positive and divide the " + std::to_string(hwc[2]) + " input and " +
             std::to_string(weight[0]) + " output channels",
         std::to_string(groups));
  }
  if (*std::min_element(weight.begin(), weight.end()) < 1 || weight[3] != hwc[2] / groups ||
      bounded_product({weight[0], weight[1], weight[2], weight[3]}) >= kMaxBytes) {
    fail(function, "weight",
         "have shape [O, Kh, Kw, " + std::to_string(hwc[2] / groups) +
             "] without empty axes, below 2**31 bytes",
         weight_text);
  }
  Geometry geo{
      hwc[2],
      hwc[0],
      hwc[1],
      weight[0],
      weight[1],
      weight[2],
      stride,
      padding,
      groups,
      window_count(hwc[0] + padding_excess.first, weight[1], stride.first, padding.first),
      window_count(hwc[1] + padding_excess.second, weight[2], stride.second, padding.second),
      {std::max(padding.first, after.first), std::max(padding.second, after.second)}};
  if (geo.ho < 1 || geo.wo < 1) {
    fail(function, "weight",
         "fit the padded image " + image_text + " with padding " + text(padding), weight_text);
  }
  if (bounded_product({geo.h + 2 * geo.border.first, geo.w + 2 * geo.border.second, geo.c}) >=
      kMaxBytes) {
    fail(function, "padding", "leave the padded image " + image_text + " below 2**31 bytes",
         text(padding));
  }
  const i64 term = op == Op::adder ? 255 : 255 * 128;
  if (geo.summands() > std::numeric_limits<i32>::max() / term) {
    fail(function, "weight",
         "have at most " + std::to_string(std::numeric_limits<i32>::max() / term) +
             " values per filter",
         weight_text);
  }
  return geo;
}

PackedLayer::PackedLayer(const Kernels& kernels, Op op, const Geometry& geometry,
                         const void* weight, const Requantisation& requantisation)
    : geometry_(geometry),
      multiplier_(requantisation.multiplier),
      offset_(requantisation.offset),
      layer_{} {
  const bool adder = op == Op::adder;
  const bool depthwise = geometry.groups == geometry.c && geometry.o == geometry.c &&
                         geometry.kh * geometry.kw <= kDepthwiseTaps;
  const i64 sharing = depthwise ? geometry.o : geometry.o / geometry.groups;
  if (depthwise) {
    kernel_ = adder ? &kernels.adder_depthwise : &kernels.conv_depthwise;
  } else if (adder) {
    kernel_ = sharing <= kernels.narrow ? &kernels.adder_narrow : &kernels.adder;
  } else {
    kernel_ = geometry.summands() <= kShortWindow ? &kernels.conv_short : &kernels.conv;
  }
  for (i64& offset : offset_) offset += i64{1} << (requantisation.shift - 1);
  layer_.epilogue = {multiplier_.data(),
                     offset_.data(),
                     requantisation.residual_multiplier,
                     static_cast<int>(requantisation.shift),
                     static_cast<int>(requantisation.low),
                     static_cast<int>(requantisation.high)};
  layer_.wo = geometry.wo;
  layer_.filters = geometry.o;
  // Without groups a kernel row is contiguous in the image; else only the channels of a group are.
  layer_.runs = geometry.groups == 1 && !depthwise ? geometry.kh : geometry.kh * geometry.kw;
  layer_.run_bytes = geometry.summands() / layer_.runs;
  const Format& format = kernel_->format;
  packed_runs_ = format.whole ? 1 : layer_.runs;
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
  pack(op, weight);
  group_tiles();
}

void PackedLayer::group_tiles() {
  constexpr i64 kGroupBytes = 1 << 16;
  i64 bytes = kGroupBytes;
  for (std::size_t i = 0; i < filter_tiles_.size(); ++i) {
    const i64 more = weight_bytes(filter_tiles_[i]);
    if (bytes + more > kGroupBytes) {
      tile_groups_.push_back(i);
      bytes = 0;
    }
    bytes += more;
  }
  tile_groups_.push_back(filter_tiles_.size());
}

i64 PackedLayer::weight_bytes(const FilterTile& filter_tile) const {
  return filter_tile.blocks * steps() * kernel_->format.step_bytes;
}

i64 PackedLayer::steps() const {
  return packed_runs_ *
         sliding::ceil_div(geometry_.summands() / packed_runs_, kernel_->format.group);
}

void PackedLayer::pack(Op op, const void* weight) {
  const Format& format = kernel_->format;
  i64 blocks = 0;
  for (const FilterTile& filter_tile : filter_tiles_) blocks += filter_tile.blocks;
  weights_ = Memory(sliding::size_product(blocks, steps() * format.step_bytes));
  bias_ = Memory(blocks * format.lanes * static_cast<i64>(sizeof(i32)));
  u8* step = weights_.data();
  i32* bias = reinterpret_cast<i32*>(bias_.data());
  const i64 k = geometry_.summands(), run_bytes = k / packed_runs_;
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

void PackedLayer::set_row(i64 bytes) {
  const Geometry& geo = geometry_;
  layer_.x_row = geo.stride.first * bytes;
  layer_.x_pixel = geo.stride.second * geo.c;
  run_offsets_.clear();
  for (i64 y = 0; y < geo.kh; ++y) {
    for (i64 x = 0; x < layer_.runs / geo.kh; ++x) {
      run_offsets_.push_back(y * bytes + x * geo.c);
    }
  }
  layer_.run_offsets = run_offsets_.data();
}

i64 PackedLayer::tasks(int team) const {
  const i64 groups = groups_of_tiles();
  // A few tasks per thread, for balance; a task with few pixels wastes registers. A long layer is
  // always cut: runs are interrupted between tasks.
  constexpr i64 kTasksPerThread = 4, kMinPixels = 24;
  constexpr double kMaxTaps = 1 << 27;
  const i64 pixels = geometry_.ho * geometry_.wo;
  const double taps =
      static_cast<double>(geometry_.o * pixels) * static_cast<double>(geometry_.summands());
  const i64 shares = team == 1 ? 1 : kTasksPerThread * team;
  const i64 wanted = std::max(shares, static_cast<i64>(taps / kMaxTaps));
  return groups * std::clamp<i64>(sliding::ceil_div(wanted, groups), 1,
                                  sliding::ceil_div(pixels, kMinPixels));
}

Pair PackedLayer::filters(i64 task) const {
  const auto group = static_cast<std::size_t>(task);
  const FilterTile& first = filter_tiles_[tile_groups_[group]];
  const FilterTile& last = filter_tiles_[tile_groups_[group + 1] - 1];
  return {first.filter, last.filter + last.filters};
}

Prefetch PackedLayer::prefetch(std::size_t filter_tile) const {
  if (filter_tile == filter_tiles_.size())
    return next_ == nullptr ? Prefetch{nullptr, 0} : next_->prefetch(0);
  const FilterTile& following = filter_tiles_[filter_tile];
  return {following.weights, weight_bytes(following)};
}

void PackedLayer::run(const Image& image, i64 task, i64 tasks) const {
  const i64 pixels = geometry_.ho * geometry_.wo;
  const i64 chunks = tasks / groups_of_tiles();
  const i64 chunk = task % chunks;
  const auto group = static_cast<std::size_t>(task / chunks);
  const std::size_t first = tile_groups_[group], last = tile_groups_[group + 1];
  kernel_->compute(layer_, image, &filter_tiles_[first], static_cast<i64>(last - first),
                   prefetch(last), chunk * pixels / chunks, (chunk + 1) * pixels / chunks);
}

void window_sums(const Kernels& kernels, Op op, const Geometry& geometry, i64 n, const u8* x,
                 int zero, const void* weight, i32* out, int threads) {
  const auto filters = static_cast<std::size_t>(geometry.o);
  PackedLayer layer(kernels, op, geometry, weight,
                    {std::vector<i32>(filters), std::vector<i64>(filters), 1, 0, 255, 0});
  const i64 row = (geometry.w + 2 * geometry.padding.second) * geometry.c;
  const i64 bytes = (geometry.h + 2 * geometry.padding.first) * row;
  Memory padded(bytes + kSlack);
  std::memset(padded.data(), zero, static_cast<std::size_t>(bytes + kSlack));
  layer.set_row(row);
  u8* const inside =
      padded.data() + geometry.padding.first * row + geometry.padding.second * geometry.c;
  const i64 tasks = layer.tasks(threads);
  for (i64 image = 0; image < n; ++image) {
    const i64 line = geometry.w * geometry.c;
    for (i64 y = 0; y < geometry.h; ++y) {
      std::memcpy(inside + y * row, x + (image * geometry.h + y) * line,
                  static_cast<std::size_t>(line));
    }
    Image target{};
    target.x = padded.data();
    target.sums = out + image * geometry.ho * geometry.wo * geometry.o;
    sliding::parallel(tasks, threads, [&](int, i64 task) { layer.run(target, task, tasks); });
  }
}

}  // namespace mulfree::nodes

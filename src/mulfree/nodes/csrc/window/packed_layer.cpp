#include "packed_layer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "_native/sliding/support.h"

namespace mulfree::nodes {

PackedLayer::PackedLayer(std::shared_ptr<const PackedWeights> weights, const Geometry& geometry,
                         const Requantisation& requantisation)
    : weights_(std::move(weights)),
      geometry_(geometry),
      multiplier_(requantisation.multiplier),
      offset_(requantisation.offset),
      layer_{} {
  for (i64& offset : offset_) offset += i64{1} << (requantisation.shift - 1);
  layer_.epilogue = {multiplier_.data(),
                     offset_.data(),
                     requantisation.residual_multiplier,
                     static_cast<int>(requantisation.shift),
                     static_cast<int>(requantisation.low),
                     static_cast<int>(requantisation.high)};
  layer_.wo = geometry.wo;
  layer_.filters = geometry.o;
  layer_.runs = weights_->runs();
  layer_.run_bytes = geometry.summands() / layer_.runs;
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
  const i64 groups = weights_->groups();
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
  const auto [first, end] = weights_->group(static_cast<std::size_t>(task));
  const FilterTile& last = weights_->tile(end - 1);
  return {weights_->tile(first).filter, last.filter + last.filters};
}

Prefetch PackedLayer::prefetch(std::size_t filter_tile) const {
  if (filter_tile < weights_->tiles()) return weights_->prefetch(filter_tile);
  return next_ == nullptr ? Prefetch{nullptr, 0} : next_->prefetch(0);
}

void PackedLayer::run(const Image& image, i64 task, i64 tasks) const {
  const i64 pixels = geometry_.ho * geometry_.wo;
  const i64 chunks = tasks / weights_->groups();
  const i64 chunk = task % chunks;
  const auto [first, last] = weights_->group(static_cast<std::size_t>(task / chunks));
  weights_->kernel().compute(layer_, image, &weights_->tile(first), static_cast<i64>(last - first),
                             prefetch(last), chunk * pixels / chunks,
                             (chunk + 1) * pixels / chunks);
}

void window_sums(const Kernels& kernels, Op op, const Geometry& geometry, i64 n, const u8* x,
                 int zero, const void* weight, i32* out, int threads) {
  const auto filters = static_cast<std::size_t>(geometry.o);
  PackedLayer layer(std::make_shared<const PackedWeights>(kernels, op, geometry, weight), geometry,
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

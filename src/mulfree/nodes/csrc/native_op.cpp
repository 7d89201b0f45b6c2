#include "native_op.h"

#include <algorithm>
#include <cstring>

namespace mulfree::nodes {
namespace {

// Tasks per thread, for balance.
constexpr i64 kTasksPerThread = 4;
// Bytes that one task writes, at most: runs are interrupted between tasks.
constexpr i64 kTaskBytes = 1 << 22;

void fill_border(const Value& value, u8* arena) {
  u8* const first = arena + value.offset;
  const auto band = static_cast<std::size_t>(value.border_h * value.row());
  const auto side = static_cast<std::size_t>(value.border_w * value.c);
  std::memset(first, value.zero, band);
  std::memset(first + value.bytes() - band, value.zero, band);
  for (i64 y = 0; side > 0 && y < value.h; ++y) {
    u8* const row = first + (value.border_h + y) * value.row();
    std::memset(row, value.zero, side);
    std::memset(row + value.row() - side, value.zero, side);
  }
}

}  // namespace

i64 NativeOp::tasks(int team) const {
  const i64 shares = team == 1 ? 1 : kTasksPerThread * team;
  return std::min(writes_->h, std::max(shares, writes_->bytes() / kTaskBytes));
}

void NativeOp::run(const Frame& frame, i64 task, i64 tasks) const {
  if (task == 0) fill_border(*writes_, frame.arena);
  work(frame, task, tasks);
}

void NativeOp::work(const Frame& frame, i64 task, i64 tasks) const {
  rows(frame, task * writes_->h / tasks, (task + 1) * writes_->h / tasks);
}

}  // namespace mulfree::nodes

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

void NativeOp::prepare() const {
  if (layer != nullptr) layer->set_row(reads[0]->row());
}

i64 NativeOp::tasks(int team) const {
  if (layer != nullptr) return layer->tasks(whole_filters ? 1 : team);
  const i64 shares = team == 1 ? 1 : kTasksPerThread * team;
  return std::min(writes->h, std::max(shares, writes->bytes() / kTaskBytes));
}

void NativeOp::run(const Frame& frame, i64 task, i64 tasks) const {
  if (task == 0) fill_border(*writes, frame.arena);
  work(frame, task, tasks);
}

NativeOp rows_op(std::vector<const Value*> reads, const Value* y,
                 std::function<void(const Rows& rows)> work) {
  const Value* const x = reads.empty() ? y : reads[0];
  const auto task_of_rows = [x, y, work = std::move(work)](const Frame& frame, i64 task,
                                                           i64 tasks) {
    work({*x, *y, frame, task * y->h / tasks, (task + 1) * y->h / tasks});
  };
  return {std::move(reads), y, task_of_rows, nullptr};
}

}  // namespace mulfree::nodes

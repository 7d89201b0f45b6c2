// Interruption of a long run.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>

namespace mulfree::runtime {

// Returns true to stop a run; called now and then during a long one, on the calling thread.
using Interrupted = std::function<bool()>;

// Thrown by a run that was stopped: its output is incomplete, the program unchanged.
class Interruption : public std::exception {};

// Calls `interrupted` now and then, on the calling thread.
class Watch {
 public:
  explicit Watch(const Interrupted& interrupted) : interrupted_(interrupted) {}

  // Called between tasks.
  bool stops(int worker) {
    if (stopped_) return true;
    if (worker != 0 || !interrupted_) return false;
    const auto now = Clock::now();
    if (now - asked_ < kPause) return false;
    asked_ = now;
    stopped_ = interrupted_();
    return stopped_;
  }

  bool stopped() const { return stopped_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kPause = std::chrono::milliseconds(50);

  const Interrupted& interrupted_;
  Clock::time_point asked_ = Clock::now();
  std::atomic<bool> stopped_{false};
};

}  // namespace mulfree::runtime

// Threads that run one program together. A waiting thread spins for a moment only: on a loaded
// machine it would occupy the processor that the awaited thread needs. OpenMP's threads spin for
// milliseconds, and do not survive a fork.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mulfree::runtime {

// Lets threads wait for a change of atomics.
class Signal {
 public:
  // Returns once `ready()` holds: spins, then sleeps.
  template <class Ready>
  void wait(const Ready& ready) {
    if (spin(ready)) return;
    std::unique_lock lock(mutex_);
    ++sleepers_;
    changed_.wait(lock, ready);
    --sleepers_;
  }

  // After every change for which a thread may wait.
  void notify() {
    if (sleepers_ == 0) return;
    // A thread between counting itself and sleeping holds the mutex.
    {
      const std::lock_guard lock(mutex_);
    }
    changed_.notify_all();
  }

 private:
  template <class Ready>
  static bool spin(const Ready& ready) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kLongest = std::chrono::microseconds(50);
    constexpr int kTurns = 64;
    const auto begin = Clock::now();
    do {
      for (int turn = 0; turn < kTurns; ++turn) {
        if (ready()) return true;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
      }
    } while (Clock::now() - begin < kLongest);
    return false;
  }

  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// Threads besides the caller's, started at first use. One job at a time.
class Team {
 public:
  Team() = default;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team();

  // Calls body(0) here and body(1) to body(size - 1) on other threads, at once. A thread that has
  // not begun when body(0) returns is left out. `body` does not throw.
  template <class Body>
  void run(int size, const Body& body) {
    if (size <= 1) return body(0);
    begin(size, &body,
          [](const void* context, int worker) { (*static_cast<const Body*>(context))(worker); });
    body(0);
    end();
  }

 private:
  using Call = void (*)(const void* context, int worker);

  // State shared by the threads. `state` has the number of the job, the seats that are free and the
  // threads that sit, in 32, 16 and 16 bits; `context` and `call` belong to those with a seat.
  struct Crew {
    std::atomic<std::uint64_t> state{0};
    std::atomic<bool> dismissed{false};
    Signal opened, left;
    const void* context = nullptr;
    Call call = nullptr;
    std::vector<std::thread> threads;
  };

  static void work(Crew& crew);
  void begin(int size, const void* context, Call call);
  void end();
  void recruit(std::size_t threads);
  // In a fork the threads do not exist, and the locks that they held stay held: everything shared
  // with them is leaked.
  void abandon_lost();

  std::unique_ptr<Crew> crew_;
  int forks_ = 0;
};

}  // namespace mulfree::runtime

#include "team.h"

#include <functional>
#include <system_error>

#include "_native/sliding/forks.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

namespace mulfree::runtime {
namespace {

constexpr std::uint64_t kSitting = 1, kSeat = 1 << 16, kJob = std::uint64_t{1} << 32;

std::uint64_t sitting(std::uint64_t state) { return state % kSeat; }
std::uint64_t seats(std::uint64_t state) { return state % kJob / kSeat; }
std::uint64_t job(std::uint64_t state) { return state / kJob; }

// Blocks all signals in threads started meanwhile: Python handles signals on its own threads.
class NoSignals {
 public:
#if defined(__unix__) || defined(__APPLE__)
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
#endif
};

}  // namespace

Team::~Team() {
  abandon_lost();
  if (crew_ == nullptr) return;
  crew_->dismissed = true;
  crew_->opened.notify();
  for (std::thread& thread : crew_->threads) thread.join();
}

void Team::abandon_lost() {
  if (forks_ == sliding::forks()) return;
  static_cast<void>(crew_.release());
  forks_ = sliding::forks();
}

void Team::recruit(std::size_t threads) {
  abandon_lost();
  if (crew_ == nullptr) crew_ = std::make_unique<Crew>();
  crew_->threads.reserve(threads);
  const NoSignals none;
  try {
    while (crew_->threads.size() < threads) crew_->threads.emplace_back(work, std::ref(*crew_));
  } catch (const std::system_error&) {
    // Out of threads: the existing ones do the work.
  }
}

void Team::work(Crew& crew) {
  std::uint64_t seen = 0;
  for (;;) {
    crew.opened.wait([&] { return crew.dismissed || job(crew.state) != seen; });
    if (crew.dismissed) return;
    std::uint64_t state = crew.state;
    seen = job(state);
    while (job(state) == seen && seats(state) > 0) {
      if (!crew.state.compare_exchange_weak(state, state - kSeat + kSitting)) continue;
      crew.call(crew.context, static_cast<int>(seats(state)));
      crew.state -= kSitting;
      crew.left.notify();
      break;
    }
  }
}

void Team::begin(int size, const void* context, Call call) {
  recruit(static_cast<std::size_t>(size) - 1);
  crew_->context = context;
  crew_->call = call;
  // No thread sits between two jobs.
  crew_->state = (job(crew_->state) + 1) * kJob + static_cast<std::uint64_t>(size - 1) * kSeat;
  crew_->opened.notify();
}

void Team::end() {
  std::uint64_t state = crew_->state;
  while (!crew_->state.compare_exchange_weak(state, state - seats(state) * kSeat)) {
  }
  crew_->left.wait([&] { return sitting(crew_->state) == 0; });
}

}  // namespace mulfree::runtime

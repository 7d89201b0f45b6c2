#include "forks.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace mulfree::sliding {
namespace {

std::atomic<int> count{0};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { count.fetch_add(1, std::memory_order_relaxed); });
#endif

}  // namespace

int forks() { return count.load(std::memory_order_relaxed); }

}  // namespace mulfree::sliding

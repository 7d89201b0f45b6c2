// The lock of the interpreter. A daemon thread that takes it after the interpreter has begun to end
// is ended by Python: pthread_exit unwinds its stack, through destructors that must not throw (the
// process aborts) and under other threads that work on it. Here it waits for the end of the
// process, as Python itself does from 3.14 on.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <thread>

namespace mulfree::gil {

// Runs `lock`, and does not return if that ends this thread.
template <class Lock>
auto outlive(const Lock& lock) {
  try {
    return lock();
  } catch (...) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

// Releases the lock until the end of the scope.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;
  ~Released() {
    outlive([&] { PyEval_RestoreThread(state_); });
  }

 private:
  PyThreadState* state_;
};

// Holds the lock until the end of the scope.
class Acquired {
 public:
  Acquired() : state_(outlive([] { return PyGILState_Ensure(); })) {}
  Acquired(const Acquired&) = delete;
  Acquired& operator=(const Acquired&) = delete;
  ~Acquired() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_;
};

}  // namespace mulfree::gil

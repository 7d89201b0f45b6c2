// Memory, integer helpers and the parallel loop shared by the kernel templates.
//
// Every name lives in an anonymous namespace: each translation unit is compiled for another
// instruction set, and a function with external linkage (the standard library's templates too)
// would let the linker put AVX-512 code under the baseline's calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "forks.h"

namespace mulfree::sliding {
namespace {

using i64 = std::int64_t;

inline i64 min_i64(i64 a, i64 b) { return a < b ? a : b; }
inline i64 max_i64(i64 a, i64 b) { return a < b ? b : a; }
inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }

// Product of non-negative sizes; sizes beyond the address space count as out of memory.
inline i64 size_product(i64 a, i64 b) {
  i64 product = 0;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

// Uninitialised memory for plain values, aligned to a cache line (and to a zmm register).
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(i64 count) { reset(count); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  void reset(i64 count) {
    std::free(data_);
    const i64 bytes = round_up(size_product(max_i64(count, 1), sizeof(T)), kLine);
    data_ = static_cast<T*>(std::aligned_alloc(kLine, static_cast<std::size_t>(bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](i64 i) { return data_[i]; }
  const T& operator[](i64 i) const { return data_[i]; }

 private:
  static constexpr i64 kLine = 64;
  T* data_ = nullptr;
};

// One default-constructed S for each worker.
template <class S>
class Workers {
 public:
  explicit Workers(int count) : items_(new S[static_cast<std::size_t>(count)]) {}
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() { delete[] items_; }
  S& operator[](int i) { return items_[i]; }

 private:
  S* items_;
};

template <int N>
struct Int {
  static constexpr int value = N;
};

// body(Int<R>{}, row) over [0, rows) in blocks of R = kMax, kMax / 2, ..., 1 rows.
template <int kMax, class Body>
inline void for_row_blocks(i64 rows, const Body& body, i64 row = 0) {
  for (; row + kMax <= rows; row += kMax) body(Int<kMax>{}, row);
  if constexpr (kMax > 1) {
    if (row < rows) for_row_blocks<kMax / 2>(rows, body, row);
  }
}

// body(Int<N>{}) with N = vectors, 1 <= vectors <= kMax.
template <int kMax, class Body>
inline void with_vectors(i64 vectors, const Body& body) {
  if constexpr (kMax > 1) {
    if (vectors < kMax) return with_vectors<kMax - 1>(vectors, body);
  }
  body(Int<kMax>{});
}

// Calls body(worker, task) once for each task, with worker < threads. Tasks are handed out as
// workers get free, so a body may depend on its task alone. In a fork there is one worker.
template <class Body>
void parallel(i64 tasks, int threads, const Body& body) {
  const int team = forks() > 0 ? 1 : static_cast<int>(min_i64(tasks, threads));
  if (team <= 1) {
    for (i64 task = 0; task < tasks; ++task) body(0, task);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
  {
    const int worker = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
    for (i64 task = 0; task < tasks; ++task) body(worker, task);
  }
#else
  for (i64 task = 0; task < tasks; ++task) body(0, task);
#endif
}

}  // namespace
}  // namespace mulfree::sliding

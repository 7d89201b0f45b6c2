// An integer network as a list of native ops with a static memory plan.
#pragma once

#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>

#include "nodes/csrc/native_ops.h"
#include "team.h"

namespace mulfree::runtime {

using nodes::Frame;
using nodes::i32;
using nodes::i64;
using nodes::i8;
using nodes::NativeOpPointer;
using nodes::Pair;
using nodes::u8;
using nodes::Value;

// Arguments of an adder or convolution layer; arrays are read during the call only.
struct WindowArguments {
  i64 x, y;
  const void* weight;
  std::array<i64, 4> shape;  // [o, kh, kw, c / groups]
  Pair stride, padding;
  i64 groups;
  nodes::Requantisation requantisation;
  i64 residual;  // or -1
};

// Returns true to stop a run; called now and then during a long one, on the calling thread.
using Interrupted = std::function<bool()>;

// Thrown by a run that was stopped: its output is incomplete, the program unchanged.
class Interruption : public std::exception {};

constexpr i64 kAnyMemory = std::numeric_limits<i64>::max();

// Every method checks its arguments and throws std::invalid_argument with a one-line message.
class Program {
 public:
  explicit Program(const std::string& isa);

  i64 value(i64 channels, i64 height, i64 width, i64 zero);
  void input_quantised(i64 y);
  void input_pixels(i64 y, const u8* table, Pair shape);
  void window(nodes::Op op, const WindowArguments& arguments);
  void max_pool(i64 x, i64 y, Pair kernel, Pair stride, Pair padding, const u8* minimum, i64 size);
  void mean(i64 x, i64 y, Pair kernel, Pair stride, i64 multiplier, i64 offset, i64 shift, i64 low,
            i64 high);
  void add(i64 a, i64 b, i64 y, i64 multiplier_a, i64 multiplier_b, i64 offset, i64 shift, i64 low,
           i64 high);
  void lut(i64 x, i64 y, const u8* table, Pair shape);
  void pad(i64 x, i64 y, i64 left, i64 right, i64 top, i64 bottom);
  void repeat(i64 x, i64 y, i64 factor);
  void concat(const std::vector<i64>& xs, i64 y, const i32* order, i64 size);
  void linear(i64 x, const i8* weight, Pair shape, const float* scale, i64 scales,
              const float* bias, i64 biases);
  void compile();

  // output [n, outputs] of input [n, c, h, w], with at most `memory` bytes of arenas.
  void run(const u8* input, const std::array<i64, 4>& input_shape, float* output, Pair output_shape,
           bool quantised, int threads, i64 memory = kAnyMemory,
           const Interrupted& interrupted = nullptr);
  // As `run`; the seconds of the input and of each node, summed over the images.
  std::vector<double> profile(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                              Pair output_shape, bool quantised, int threads,
                              i64 memory = kAnyMemory, const Interrupted& interrupted = nullptr);
  i64 arena_bytes(i64 batch) const;
  std::vector<std::string> describe() const;

 private:
  // Progress of one op on one image. Each thread of a team has a range of the tasks, and cache
  // lines, of its own; `done` of the first thread counts for all.
  struct Progress {
    alignas(64) std::atomic<i64> taken{0};
    alignas(64) std::atomic<i64> done{0};
  };
  struct Batch {
    const u8* input;
    i64 images;
    float* output;
    bool quantised;
  };
  class Watch;

  void check_open(const char* function) const;
  void check_compiled(const char* function) const;
  Value& written(const char* function, const char* argument, i64 id);
  Value& unwritten(const char* function, const char* argument, i64 id);
  void check_shape(const char* function, const Value& y, i64 c, i64 h, i64 w) const;
  void check_zero(const char* function, const char* name, const Value& x, const Value& y) const;
  // Appends one of several ops of a node; returns the value that it writes.
  const Value* part(NativeOpPointer op);
  // Appends the only op of a node.
  void append(NativeOpPointer op);
  void append(NativeOpPointer op, i64 y);
  // Ends a node of several ops.
  void close_node(const char* name, i64 y);
  void running_maxima(const Value* x, const Value* y, Pair kernel, Pair stride, Pair padding,
                      const std::vector<u8>& minimum);
  // Widens the border of x to the padding of a layer that reads it, and counts its work.
  void reserve_border(Value& x, const nodes::Geometry& geometry);
  // A value between the ops of one node, in memory of its own or in the memory of `home`.
  const Value* scratch(i64 c, i64 h, i64 w, const Value* home = nullptr);
  void append_last(NativeOpPointer op, const nodes::Geometry& geometry);
  void set_input(const char* function, i64 y);
  void plan();
  // Checks the arguments; returns the useful size of a team.
  int prepare(const std::array<i64, 4>& input_shape, Pair output_shape, bool quantised, int threads,
              i64 memory, const char* function) const;
  void make_arenas(std::size_t count);
  Frame frame(const Batch& batch, i64 image, u8* arena) const;
  void run_single_threaded(const Frame& frame, int worker, Watch& watch) const;
  // `seconds` of each node, or null.
  void run_together(const Frame& frame, int team, Watch& watch, double* seconds);
  void run_shared(const Frame& frame, int worker, int team, Watch& watch, double* seconds);

  const nodes::Kernels* kernels_;
  std::deque<Value> values_;  // ops point into it
  std::deque<Value> scratch_;
  std::vector<bool> written_;
  std::vector<NativeOpPointer> ops_;
  std::vector<std::size_t> nodes_;           // of each op the number of its node
  std::vector<std::string> names_{"input"};  // of each node its kernel
  std::optional<i64> input_;
  std::vector<u8> table_;
  i64 outputs_ = 0;
  double work_ = 0;
  bool compiled_ = false;
  i64 arena_size_ = 0;
  std::mutex running_;
  Team team_;
  std::deque<nodes::Memory> arenas_;  // one per thread; threads share images in the first
  std::vector<Progress> progress_;    // [ops][threads]
  Signal op_done_;
  std::atomic<i64> next_image_{0};
};

}  // namespace mulfree::runtime

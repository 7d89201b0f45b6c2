// An integer network as a list of steps with a static plan of its memory.
#pragma once

#include <atomic>
#include <deque>
#include <mutex>
#include <optional>

#include "steps.h"

namespace mulfree::runtime {

// Arguments of an adder or convolution layer; arrays are read during the call only.
struct WindowArguments {
  i64 x, y;
  const void* weight;
  std::array<i64, 4> shape;  // [o, kh, kw, c / groups]
  Pair stride, padding;
  i64 groups;
  int8::Requantisation requantisation;
  i64 residual;  // or -1
};

// Arguments of a convolution with floating-point weights.
struct FloatArguments {
  i64 x, y;
  const float* weight;
  std::array<i64, 4> shape;
  Pair stride, padding;
  i64 groups;
  int8::FloatRequantisation requantisation;
};

// Every method checks its arguments and throws std::invalid_argument with a one-line message.
class Program {
 public:
  explicit Program(const std::string& isa);

  i64 value(i64 channels, i64 height, i64 width, i64 zero);
  void input_quantised(i64 y);
  void input_pixels(i64 y, const u8* table, Pair shape);
  void window(int8::Rule rule, const WindowArguments& arguments);
  void conv2d_float(FloatArguments arguments);
  void max_pool(i64 x, i64 y, Pair kernel, Pair stride, Pair padding, const u8* minimum, i64 size);
  void mean(i64 x, i64 y, Pair kernel, Pair stride, i64 multiplier, i64 offset, i64 shift, i64 low,
            i64 high);
  void add(i64 a, i64 b, i64 y, i64 multiplier_a, i64 multiplier_b, i64 offset, i64 shift, i64 low,
           i64 high);
  void lut(i64 x, i64 y, const u8* table, Pair shape);
  void pad(i64 x, i64 y, i64 left, i64 right, i64 top, i64 bottom);
  void repeat(i64 x, i64 y, i64 factor);
  void concat(const std::vector<i64>& xs, i64 y, const i32* order, i64 size);
  void select(i64 x, i64 y, const i32* channels, i64 size);
  void linear(i64 x, const i8* weight, Pair shape, const float* scale, i64 scales,
              const float* bias, i64 biases);
  void linear_float(i64 x, const float* weight, Pair shape, const float* bias, i64 biases);
  void compile();

  // output [n, outputs] of input [n, c, h, w].
  void run(const u8* input, const std::array<i64, 4>& input_shape, float* output, Pair output_shape,
           bool quantised, int threads);
  // As `run`; the seconds of each step, summed over the images.
  std::vector<double> profile(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                              Pair output_shape, bool quantised, int threads);
  i64 arena_bytes(i64 batch) const;
  std::vector<std::string> describe() const;

 private:
  // How far one step of one image is. Each thread of a team has a range of the tasks, and cache
  // lines, of its own; `done` counts for all of them, in the first thread's.
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

  void check_open(const char* function) const;
  void check_compiled(const char* function) const;
  Value& written(const char* function, const char* argument, i64 id);
  Value& unwritten(const char* function, const char* argument, i64 id);
  void check_shape(const char* function, const Value& y, i64 c, i64 h, i64 w) const;
  void check_zero(const char* function, const char* name, const Value& x, const Value& y) const;
  void append(StepPointer step, i64 y);
  // Makes room for the padding of a layer that reads x, and counts its work.
  void note_window(Value& x, const int8::Geometry& geometry);
  // A value that no other step reads, at the end of `values_`.
  const Value* scratch(i64 bytes);
  // The step that writes it.
  void append_last(StepPointer step, const int8::Geometry& geometry);
  void set_input(const char* function, i64 y);
  void plan();
  // Checks the arguments and makes room; the size of the team that the work is worth.
  int prepare(const std::array<i64, 4>& input_shape, Pair output_shape, bool quantised, int threads,
              const char* function);
  void clear_progress(i64 images, int team);
  Frame frame(const Batch& batch, i64 image, u8* arena) const;
  void run_alone(const Frame& frame) const;
  void run_shared(const Frame& frame, Progress* progress, int worker, int team,
                  double* seconds) const;

  const int8::Kernels* kernels_;
  std::deque<Value> values_;  // steps point into it
  std::vector<bool> written_;
  std::vector<StepPointer> steps_;
  std::optional<i64> input_;
  std::vector<u8> table_;
  i64 outputs_ = 0;
  double work_ = 0;
  bool compiled_ = false;
  i64 arena_size_ = 0;
  std::mutex running_;
  std::deque<int8::Memory> arenas_;  // for the image that threads share; then one per thread
  std::vector<Progress> progress_;   // [images that a team shares][steps][threads]
  std::atomic<i64> next_image_{0};
};

}  // namespace mulfree::runtime

// An integer network as a list of native ops with a static memory plan.
#pragma once

#include <atomic>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>

#include "exits.h"
#include "nodes/csrc/builder.h"
#include "team.h"
#include "watch.h"

namespace mulfree::runtime {

using nodes::Frame;
using nodes::NativeOp;
using nodes::Pair;
using nodes::u8;
using nodes::Value;

// The ops [first, last] that use some bytes of the arena.
struct Lifetime {
  i64 bytes, first, last;
};

constexpr i64 kAnyMemory = std::numeric_limits<i64>::max();

// Every method checks its arguments and throws std::invalid_argument with a one-line message.
class Program {
 public:
  // Weights in `pool` are shared with its other programs: their arrays must outlive it.
  explicit Program(const std::string& isa, nodes::WeightPool* pool = nullptr);

  i64 value(i64 channels, i64 height, i64 width, i64 zero);
  // The first value: table[c, pixel], or given by runs that are quantised.
  void input(i64 y, const u8* table, Pair shape);
  // A node of the kind `fields.op()`; it writes no value if it makes outputs. Its fields are read
  // during the call only.
  void append(const std::vector<i64>& reads, std::optional<i64> writes,
              const nodes::Fields& fields);
  // Blocks of memory that need a place in the arena, once all nodes are appended.
  std::vector<Lifetime> lifetimes();
  // Ends the program: the offset of each block, multiples of 64, in an arena of `size` bytes.
  void compile(const std::vector<i64>& offsets, i64 size);

  // output [n, outputs] of input [n, c, h, w], with at most `memory` bytes of arenas.
  void run(const u8* input, const std::array<i64, 4>& input_shape, float* output, Pair output_shape,
           bool quantised, int threads, i64 memory = kAnyMemory,
           const Interrupted& interrupted = nullptr);
  // As `run` for a program whose outputs have one size: each image leaves at the first output that
  // is confident enough, else at the last. output [n, size], and the number of the output it is.
  void run_exits(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                 Pair output_shape, i64* taken, i64 images, const Exits& exits, bool quantised,
                 int threads, i64 memory = kAnyMemory, const Interrupted& interrupted = nullptr);
  // As `run`; the seconds of the input and of each node, summed over the images.
  std::vector<double> profile(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                              Pair output_shape, bool quantised, int threads,
                              i64 memory = kAnyMemory, const Interrupted& interrupted = nullptr);
  i64 arena_bytes() const { return arena_size_; }
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
    const Exits* exits = nullptr;
    i64* taken = nullptr;  // with exits
  };

  void check_open(const std::string& function) const;
  void check_compiled(const char* function) const;
  // A value that is written, or is not yet.
  Value& operand(const std::string& op, const char* argument, i64 id, bool written);
  struct Block;
  std::vector<Block> blocks();
  // Checks the arguments; returns the useful size of a team.
  int prepare(const std::array<i64, 4>& input_shape, Pair output_shape, i64 columns, int threads,
              i64 memory, const char* function) const;
  void make_arenas(std::size_t count);
  // Operands of an image in an arena; with exits its outputs have a row beside the arena.
  Frame frame(const Batch& batch, i64 image, std::size_t slot);
  // Writes the output of the exit that an image takes.
  void leave(const Batch& batch, i64 image, const Frame& frame, const Gate& gate) const;
  void run_images(const Batch& batch, int team, i64 memory, const Interrupted& interrupted);
  void run_single_threaded(const Frame& frame, int worker, Watch& watch, Gate& gate) const;
  // `seconds` of each node, or null.
  void run_together(const Frame& frame, int team, Watch& watch, double* seconds, Gate& gate);
  void run_shared(const Frame& frame, int worker, int team, Watch& watch, double* seconds,
                  Gate& gate);

  const nodes::Kernels* kernels_;
  nodes::WeightPool* const pool_;
  std::deque<Value> values_;  // ops point into it
  std::deque<Value> scratch_;
  std::vector<bool> written_;
  std::vector<NativeOp> ops_;
  std::vector<std::size_t> nodes_;  // of each op the number of its node
  std::vector<std::string> names_;  // of each node its kernel
  const Value* input_ = nullptr;
  i64 outputs_ = 0;
  std::vector<Output> ends_;
  double work_ = 0;
  bool compiled_ = false;
  i64 arena_size_ = 0;
  std::mutex running_;
  Team team_;
  std::deque<nodes::Memory> arenas_;     // one per thread; threads share images in the first
  std::deque<std::vector<float>> rows_;  // likewise, all outputs of an image
  std::vector<Progress> progress_;       // [ops][threads]
  Signal op_done_;
  std::atomic<i64> next_image_{0};
};

}  // namespace mulfree::runtime

#include "program.h"

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "input_op.h"

namespace mulfree::runtime {

using namespace nodes;

namespace {

// Taps that take as long as waking a thread.
constexpr double kGrain = 1 << 20;

constexpr i64 kLine = 64;

// Images of more taps are shared by all threads: the calling one, which checks for signals, must
// not wait long for others.
constexpr double kMaxSingleThreaded = i64{1} << 32;

}  // namespace

Program::Program(const std::string& isa, WeightPool* pool)
    : kernels_(&select_kernels("Program", isa)), pool_(pool) {}

void Program::check_open(const std::string& function) const {
  if (compiled_) fail(function, "program", "not be compiled yet", "a compiled program");
}

void Program::check_compiled(const char* function) const {
  if (!compiled_) fail(function, "program", "be compiled", "one that is not");
}

Value& Program::operand(const std::string& op, const char* argument, i64 id, bool written) {
  if (id < 0 || id >= static_cast<i64>(values_.size()) ||
      written_[static_cast<std::size_t>(id)] != written) {
    fail(op, argument,
         written ? "be values that earlier nodes have written"
                 : "be a value that no node has written",
         std::to_string(id));
  }
  return values_[static_cast<std::size_t>(id)];
}

i64 Program::value(i64 channels, i64 height, i64 width, i64 zero) {
  check_open("value");
  if (std::min({channels, height, width}) < 1 ||
      bounded_product({channels, height, width}) >= kMaxBytes) {
    fail("value", "channels, height, width", "be positive with a product below 2**31",
         text(std::vector<i64>{channels, height, width}));
  }
  if (zero < 0 || zero > 255) fail("value", "zero", "be in [0, 255]", std::to_string(zero));
  values_.push_back({channels, height, width, static_cast<int>(zero)});
  written_.push_back(false);
  return static_cast<i64>(values_.size()) - 1;
}

void Program::input(i64 id, const u8* table, Pair shape) {
  if (input_ != nullptr) fail("input", "program", "have no input yet", "a second one");
  const Value& y = operand("input", "y", id, false);
  if (shape != Pair{y.c, 256}) {
    fail("input", "table", "have shape " + text(Pair{y.c, 256}), text(shape));
  }
  input_ = &y;
  ops_.push_back(input_op(&y, {table, table + y.c * 256}));
  nodes_.push_back(0);
  names_.emplace_back("input");
  written_[static_cast<std::size_t>(id)] = true;
}

void Program::append(const std::vector<i64>& reads, std::optional<i64> writes,
                     const Fields& fields) {
  const std::string& op = fields.op();
  check_open(op);
  const auto kernel = node_kernels().find(op);
  if (kernel == node_kernels().end()) fail("append", "op", "have a native kernel", op);
  std::vector<Value*> xs;
  for (const i64 id : reads) xs.push_back(&operand(op, "reads", id, true));
  const Value* const y = writes.has_value() ? &operand(op, "writes", *writes, false) : nullptr;
  Builder node(op, *kernels_, pool_, std::move(xs), y, outputs_, scratch_);
  kernel->second(node, fields);
  for (NativeOp& made : node.ops()) {
    ops_.push_back(std::move(made));
    nodes_.push_back(names_.size());
  }
  names_.push_back(node.name());
  if (node.outputs() > 0) ends_.push_back({ops_.size(), outputs_, node.outputs()});
  outputs_ += node.outputs();
  work_ += node.work();
  if (writes.has_value()) written_[static_cast<std::size_t>(*writes)] = true;
}

struct Program::Block : Lifetime {
  Value* value;
};

std::vector<Program::Block> Program::blocks() {
  check_open("lifetimes");
  if (outputs_ == 0) fail("lifetimes", "program", "have an output", "none");
  std::vector<Block> blocks;
  std::unordered_map<const Value*, std::size_t> numbers;
  for (auto* values : {&values_, &scratch_}) {
    for (Value& v : *values) {
      if (bounded_product({v.h + 2 * v.border_h, v.w + 2 * v.border_w, v.c}) >= kMaxBytes) {
        fail("lifetimes", "padding", "leave every value with its border below 2**31 bytes",
             text(std::vector<i64>{v.c, v.h, v.w}));
      }
      if (v.home == nullptr) {
        numbers[&v] = blocks.size();
        blocks.push_back({{0, static_cast<i64>(ops_.size()), 0}, &v});
      }
    }
  }
  for (std::size_t i = 0; i < ops_.size(); ++i) {
    std::vector<const Value*> used = ops_[i].reads;
    used.push_back(ops_[i].writes);
    for (const Value* v : used) {
      Block& block = blocks[numbers.at(v->home == nullptr ? v : v->home)];
      block.first = std::min(block.first, static_cast<i64>(i));
      block.last = static_cast<i64>(i);
      block.bytes = std::max(block.bytes, v->bytes() + kSlack);
    }
  }
  const auto unused = [](const Block& block) { return block.bytes == 0; };
  blocks.erase(std::remove_if(blocks.begin(), blocks.end(), unused), blocks.end());
  return blocks;
}

std::vector<Lifetime> Program::lifetimes() {
  const std::vector<Block> all = blocks();
  return {all.begin(), all.end()};
}

void Program::compile(const std::vector<i64>& offsets, i64 size) {
  const std::vector<Block> all = blocks();
  if (offsets.size() != all.size()) {
    fail("compile", "offsets", "be as many as the lifetimes", std::to_string(offsets.size()));
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (size < 0 || offsets[i] < 0 || offsets[i] % kLine != 0 || offsets[i] > size - all[i].bytes) {
      fail("compile", "offsets", "be multiples of 64 inside the arena", std::to_string(offsets[i]));
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (all[i].first <= all[j].last && all[j].first <= all[i].last &&
          offsets[i] < offsets[j] + all[j].bytes && offsets[j] < offsets[i] + all[i].bytes) {
        fail("compile", "offsets", "keep blocks that are in use at once apart",
             text(Pair{offsets[j], offsets[i]}));
      }
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) all[i].value->offset = offsets[i];
  for (Value& v : scratch_) {
    if (v.home != nullptr) v.offset = v.home->offset;
  }
  PackedLayer* last = nullptr;
  for (const NativeOp& op : ops_) {
    op.prepare();
    if (op.layer == nullptr) continue;
    if (last != nullptr) last->set_next(op.layer.get());
    last = op.layer.get();
  }
  arena_size_ = size;
  compiled_ = true;
}

int Program::prepare(const std::array<i64, 4>& input_shape, Pair output_shape, i64 columns,
                     int threads, i64 memory, const char* function) const {
  check_compiled(function);
  const Value& x = *input_;
  if (input_shape[1] != x.c || input_shape[2] != x.h || input_shape[3] != x.w) {
    fail(function, "input",
         "have shape [N, " + std::to_string(x.c) + ", " + std::to_string(x.h) + ", " +
             std::to_string(x.w) + "]",
         text(std::vector<i64>(input_shape.begin(), input_shape.end())));
  }
  if (output_shape != Pair{input_shape[0], columns}) {
    fail(function, "output", "have shape " + text(Pair{input_shape[0], columns}),
         text(output_shape));
  }
  if (threads < 1) fail(function, "threads", "be positive", std::to_string(threads));
  if (memory < arena_size_) {
    fail(function, "memory", "be at least " + std::to_string(arena_size_) + " bytes",
         std::to_string(memory));
  }
  constexpr int kMaxThreads = 1024;
  const double taps = work_ * static_cast<double>(input_shape[0]);
  return static_cast<int>(std::min<double>(1 + taps / kGrain, std::min(threads, kMaxThreads)));
}

void Program::make_arenas(std::size_t count) {
  while (arenas_.size() < count) {
    arenas_.emplace_back(arena_size_);
    rows_.emplace_back(static_cast<std::size_t>(outputs_));
  }
}

Frame Program::frame(const Batch& batch, i64 image, std::size_t slot) {
  const Value& x = *input_;
  float* const row = batch.exits == nullptr ? batch.output + image * outputs_ : rows_[slot].data();
  return {arenas_[slot].data(), batch.input + image * x.c * x.h * x.w, batch.quantised, row};
}

void Program::leave(const Batch& batch, i64 image, const Frame& frame, const Gate& gate) const {
  if (batch.exits == nullptr) return;
  const Output& taken = ends_[gate.number()];
  std::copy_n(frame.output + taken.first, taken.size, batch.output + image * taken.size);
  batch.taken[image] = static_cast<i64>(gate.number());
}

void Program::run_single_threaded(const Frame& frame, int worker, Watch& watch, Gate& gate) const {
  for (std::size_t i = 0; i < ops_.size() && !gate.leaves(i, frame.output); ++i) {
    const NativeOp& op = ops_[i];
    const i64 tasks = op.tasks(1);
    for (i64 task = 0; task < tasks; ++task) {
      if (watch.stops(worker)) return;
      op.run(frame, task, tasks);
    }
  }
}

// Called by all threads of a team. A thread does its own range of an op's tasks, where it finds
// the cached results of its own, then the remaining ones of others. The next op starts when all
// tasks are done, not when all threads have arrived: a descheduled thread delays no other.
void Program::run_shared(const Frame& frame, int worker, int team, Watch& watch, double* seconds,
                         Gate& gate) {
  using Clock = std::chrono::steady_clock;
  Progress* progress = progress_.data();
  for (std::size_t i = 0; i < ops_.size() && !gate.leaves(i, frame.output); ++i, progress += team) {
    const auto start = Clock::now();
    const i64 tasks = ops_[i].tasks(team);
    i64 done = 0;
    for (int k = 0; k < team; ++k) {
      const int owner = (worker + k) % team;
      const i64 begin = owner * tasks / team, end = (owner + 1) * tasks / team;
      if (progress[owner].taken >= end - begin) continue;
      for (i64 task; !watch.stops(worker) && (task = begin + progress[owner].taken++) < end;) {
        ops_[i].run(frame, task, tasks);
        ++done;
      }
    }
    if (done > 0) progress->done += done;
    if (progress->done == tasks || watch.stopped()) op_done_.notify();
    op_done_.wait([&] { return progress->done == tasks || watch.stopped(); });
    if (watch.stopped()) return;
    if (worker == 0 && seconds != nullptr) {
      seconds[nodes_[i]] += std::chrono::duration<double>(Clock::now() - start).count();
    }
  }
}

void Program::run_together(const Frame& frame, int team, Watch& watch, double* seconds,
                           Gate& gate) {
  const std::size_t count = static_cast<std::size_t>(team) * ops_.size();
  if (progress_.size() < count) progress_ = std::vector<Progress>(count);
  for (Progress& progress : progress_) progress.taken = progress.done = 0;
  const Gate start = gate;
  team_.run(team, [&](int worker) {
    Gate own = start;
    run_shared(frame, worker, team, watch, seconds, worker == 0 ? gate : own);
  });
}

// Whole images go to single threads, which need not wait for each other, where the memory is enough
// and images are not large; the threads share the images that are left over.
void Program::run_images(const Batch& batch, int team, i64 memory, const Interrupted& interrupted) {
  const bool apart = team <= memory / arena_size_ && work_ <= kMaxSingleThreaded;
  const i64 alone = apart ? batch.images - batch.images % team : 0;
  make_arenas(alone > 0 ? static_cast<std::size_t>(team) : 1);
  Watch watch(interrupted);
  next_image_ = 0;
  if (alone > 0) {
    team_.run(team, [&](int worker) {
      for (i64 image; !watch.stopped() && (image = next_image_++) < alone;) {
        const Frame own = frame(batch, image, static_cast<std::size_t>(worker));
        Gate gate(batch.exits, ends_);
        run_single_threaded(own, worker, watch, gate);
        leave(batch, image, own, gate);
      }
    });
  }
  for (i64 image = alone; image < batch.images && !watch.stopped(); ++image) {
    const Frame shared = frame(batch, image, 0);
    Gate gate(batch.exits, ends_);
    run_together(shared, team, watch, nullptr, gate);
    leave(batch, image, shared, gate);
  }
  if (watch.stopped()) throw Interruption();
}

void Program::run(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                  Pair output_shape, bool quantised, int threads, i64 memory,
                  const Interrupted& interrupted) {
  const std::lock_guard lock(running_);
  const int team = prepare(input_shape, output_shape, outputs_, threads, memory, "run");
  run_images({input, input_shape[0], output, quantised}, team, memory, interrupted);
}

void Program::run_exits(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                        Pair output_shape, i64* taken, i64 images, const Exits& exits,
                        bool quantised, int threads, i64 memory, const Interrupted& interrupted) {
  const std::lock_guard lock(running_);
  check_compiled("run_exits");
  for (const Output& end : ends_) {
    if (end.size != ends_[0].size) {
      fail("run_exits", "program", "have outputs of one size", text(Pair{ends_[0].size, end.size}));
    }
  }
  if (exits.thresholds.size() + 1 != ends_.size()) {
    fail("run_exits", "thresholds", "be one fewer than the outputs",
         std::to_string(exits.thresholds.size()));
  }
  if (images != input_shape[0]) {
    fail("run_exits", "taken", "have as many elements as images", std::to_string(images));
  }
  const int team = prepare(input_shape, output_shape, ends_[0].size, threads, memory, "run_exits");
  const Batch batch{input, images, output, quantised, &exits, taken};
  run_images(batch, team, memory, interrupted);
}

std::vector<double> Program::profile(const u8* input, const std::array<i64, 4>& input_shape,
                                     float* output, Pair output_shape, bool quantised, int threads,
                                     i64 memory, const Interrupted& interrupted) {
  const std::lock_guard lock(running_);
  const int team = prepare(input_shape, output_shape, outputs_, threads, memory, "profile");
  const Batch batch{input, input_shape[0], output, quantised};
  std::vector<double> seconds(names_.size());
  make_arenas(1);
  Watch watch(interrupted);
  for (i64 image = 0; image < batch.images && !watch.stopped(); ++image) {
    Gate gate(nullptr, ends_);
    run_together(frame(batch, image, 0), team, watch, seconds.data(), gate);
  }
  if (watch.stopped()) throw Interruption();
  return seconds;
}

std::vector<std::string> Program::describe() const {
  check_compiled("describe");
  return names_;
}

}  // namespace mulfree::runtime

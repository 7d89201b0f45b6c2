#include "program.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <unordered_map>

namespace mulfree::runtime {

using namespace nodes;

namespace {

// Taps that take as long as waking a thread.
constexpr double kGrain = 1 << 20;

// Images of more taps are shared by all threads: the calling one, which checks for signals, must
// not wait long for others.
constexpr double kMaxSingleThreaded = i64{1} << 32;

std::string shape_text(const Value& v) { return text(std::vector<i64>{v.c, v.h, v.w}); }

i32 to_i32(const char* function, const char* argument, i64 v) {
  if (v < std::numeric_limits<i32>::min() || v > std::numeric_limits<i32>::max()) {
    fail(function, argument, "fit 32 bits", std::to_string(v));
  }
  return static_cast<i32>(v);
}

void check_window(const char* function, Pair kernel, Pair stride) {
  for (const auto& [name, pair] : {std::pair{"kernel", kernel}, {"stride", stride}}) {
    if (std::min(pair.first, pair.second) < 1 || std::max(pair.first, pair.second) >= kMaxBytes) {
      fail(function, name, "be positive and below 2**31", text(pair));
    }
  }
}

Scalars scalars(const char* function, i64 multiplier, i64 multiplier_b, i64 offset, i64 shift,
                i64 low, i64 high, i64 largest) {
  const Requantisation r{{to_i32(function, "multiplier", multiplier)}, {offset}, shift, low, high,
                         to_i32(function, "multiplier", multiplier_b)};
  check_requantisation(function, r, largest);
  return {r.multiplier[0],         r.residual_multiplier, offset + (i64{1} << (shift - 1)),
          static_cast<int>(shift), static_cast<int>(low), static_cast<int>(high)};
}

// Number of reaches 1, 2, 4, ... below `size`.
int doublings(i64 size) {
  int steps = 0;
  for (i64 reach = 1; reach < size; reach *= 2) ++steps;
  return steps;
}

// Holds where windows overlap so much that summing rows and columns one after the other, in
// `passes` over the image, is worth the memory.
bool worth_passes(Pair kernel, Pair outputs, Pair image, int passes) {
  const auto area = [](Pair pair) {
    return static_cast<double>(pair.first) * static_cast<double>(pair.second);
  };
  return area(outputs) * area(kernel) > 4.0 * passes * area(image);
}

}  // namespace

// Calls `interrupted` now and then, on the calling thread.
class Program::Watch {
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

Program::Program(const std::string& isa) : kernels_(&select_kernels("Program", isa)) {}

void Program::check_open(const char* function) const {
  if (compiled_ || outputs_ > 0) {
    fail(function, "program", "have no linear layer yet, which ends it",
         compiled_ ? "a compiled program" : "one with a linear layer");
  }
}

void Program::check_compiled(const char* function) const {
  if (!compiled_) fail(function, "program", "be compiled", "one that is not");
}

Value& Program::written(const char* function, const char* argument, i64 id) {
  if (id < 0 || id >= static_cast<i64>(values_.size()) || !written_[static_cast<std::size_t>(id)]) {
    fail(function, argument, "be a value that an earlier node has written", std::to_string(id));
  }
  return values_[static_cast<std::size_t>(id)];
}

Value& Program::unwritten(const char* function, const char* argument, i64 id) {
  if (id < 0 || id >= static_cast<i64>(values_.size()) || written_[static_cast<std::size_t>(id)]) {
    fail(function, argument, "be a value that no node has written", std::to_string(id));
  }
  return values_[static_cast<std::size_t>(id)];
}

void Program::check_shape(const char* function, const Value& y, i64 c, i64 h, i64 w) const {
  if (y.c != c || y.h != h || y.w != w) {
    fail(function, "y", "have shape " + text(std::vector<i64>{c, h, w}), shape_text(y));
  }
}

void Program::check_zero(const char* function, const char* name, const Value& x,
                         const Value& y) const {
  if (x.zero != y.zero) {
    fail(function, "y", std::string("have the zero of ") + name + ", " + std::to_string(x.zero),
         std::to_string(y.zero));
  }
}

const Value* Program::part(NativeOpPointer op) {
  ops_.push_back(std::move(op));
  nodes_.push_back(names_.size());
  return ops_.back()->writes();
}

void Program::append(NativeOpPointer op) {
  std::string name = op->describe();
  part(std::move(op));
  names_.push_back(std::move(name));
}

void Program::append(NativeOpPointer op, i64 y) {
  append(std::move(op));
  written_[static_cast<std::size_t>(y)] = true;
}

void Program::close_node(const char* name, i64 y) {
  names_.emplace_back(name);
  written_[static_cast<std::size_t>(y)] = true;
}

i64 Program::value(i64 channels, i64 height, i64 width, i64 zero) {
  check_open("value");
  const std::string shape = text(std::vector<i64>{channels, height, width});
  if (std::min({channels, height, width}) < 1 ||
      bounded_product({channels, height, width}) >= kMaxBytes) {
    fail("value", "channels, height, width", "be positive with a product below 2**31", shape);
  }
  if (zero < 0 || zero > 255) fail("value", "zero", "be in [0, 255]", std::to_string(zero));
  values_.push_back({channels, height, width, static_cast<int>(zero)});
  written_.push_back(false);
  return static_cast<i64>(values_.size()) - 1;
}

void Program::set_input(const char* function, i64 y) {
  check_open(function);
  if (input_.has_value() ? *input_ != y : !ops_.empty()) {
    fail(function, "y", "be the program's one input, given before all nodes", std::to_string(y));
  }
  if (!input_.has_value()) {
    unwritten(function, "y", y);
    written_[static_cast<std::size_t>(y)] = true;
    input_ = y;
  }
}

void Program::input_quantised(i64 y) { set_input("input_quantised", y); }

void Program::input_pixels(i64 y, const u8* table, Pair shape) {
  set_input("input_pixels", y);
  const i64 channels = values_[static_cast<std::size_t>(y)].c;
  if (shape != Pair{channels, 256}) {
    fail("input_pixels", "table", "have shape " + text(Pair{channels, 256}), text(shape));
  }
  table_.assign(table, table + channels * 256);
}

void Program::window(Op op, const WindowArguments& a) {
  const char* const function = op == Op::adder ? "adder2d" : "conv2d";
  check_open(function);
  Value& x = written(function, "x", a.x);
  Value& y = unwritten(function, "y", a.y);
  const Geometry geo =
      make_geometry(function, op, {x.h, x.w, x.c}, a.shape, a.stride, a.padding, a.groups);
  check_shape(function, y, geo.o, geo.ho, geo.wo);
  const auto filters = static_cast<std::size_t>(geo.o);
  if (a.requantisation.multiplier.size() != filters || a.requantisation.offset.size() != filters) {
    fail(function, "multiplier, offset", "have " + std::to_string(filters) + " values each",
         text(Pair{static_cast<i64>(a.requantisation.multiplier.size()),
                   static_cast<i64>(a.requantisation.offset.size())}));
  }
  check_requantisation(function, a.requantisation,
                       geo.summands() * (op == Op::adder ? 255 : 255 * 128));
  const Value* residual = nullptr;
  if (a.residual != -1) {
    residual = &written(function, "residual", a.residual);
    if (residual->c != y.c || residual->h != y.h || residual->w != y.w) {
      fail(function, "residual", "have shape " + shape_text(y), shape_text(*residual));
    }
  }
  append(make_window(function, &x, &y, residual,
                     std::make_unique<PackedLayer>(*kernels_, op, geo, a.weight, a.requantisation)),
         a.y);
  reserve_border(x, geo);
}

void Program::reserve_border(Value& x, const Geometry& geo) {
  x.border_h = std::max(x.border_h, geo.padding.first);
  x.border_w = std::max(x.border_w, geo.padding.second);
  work_ += static_cast<double>(geo.o) * static_cast<double>(geo.ho * geo.wo) *
           static_cast<double>(geo.summands());
}

void Program::max_pool(i64 x_id, i64 y_id, Pair kernel, Pair stride, Pair padding,
                       const u8* minimum, i64 size) {
  check_open("max_pool");
  const Value& x = written("max_pool", "x", x_id);
  const Value& y = unwritten("max_pool", "y", y_id);
  check_window("max_pool", kernel, stride);
  if (std::min(padding.first, padding.second) < 0 || padding.first > kernel.first / 2 ||
      padding.second > kernel.second / 2) {
    fail("max_pool", "padding", "be non-negative and at most half of kernel " + text(kernel),
         text(padding));
  }
  check_shape("max_pool", y, x.c, window_count(x.h, kernel.first, stride.first, padding.first),
              window_count(x.w, kernel.second, stride.second, padding.second));
  if (size != x.c) {
    fail("max_pool", "minimum", "have " + std::to_string(x.c) + " values", std::to_string(size));
  }
  check_zero("max_pool", "x", x, y);
  // A window that reaches further than a whole map beyond the edge sees the same elements.
  const Pair spare = {std::max<i64>(0, padding.first - x.h),
                      std::max<i64>(0, padding.second - x.w)};
  kernel = {kernel.first - 2 * spare.first, kernel.second - 2 * spare.second};
  padding = {padding.first - spare.first, padding.second - spare.second};
  const int passes = 2 + doublings(kernel.first) + doublings(kernel.second);
  const Pair padded = {x.h + 2 * padding.first, x.w + 2 * padding.second};
  const std::vector<u8> marks(minimum, minimum + size);
  if (!worth_passes(kernel, {y.h, y.w}, padded, passes)) {
    return append(make_max_pool(&x, &y, kernel, stride, padding, marks), y_id);
  }
  running_maxima(&x, &y, kernel, stride, padding, marks);
  close_node("max_pool: running maxima", y_id);
}

// Few comparisons, however large the window: the maximum of 2 n rows is the maximum of two maxima
// of n rows.
void Program::running_maxima(const Value* x, const Value* y, Pair kernel, Pair stride, Pair padding,
                             const std::vector<u8>& minimum) {
  const i64 channels = x->c;
  const Value* const homes[] = {scratch(0, 0, 0), scratch(0, 0, 0)};
  int made = 0;
  const auto next = [&](i64 h, i64 w) { return scratch(channels, h, w, homes[made++ % 2]); };
  // min(x) = 255 - max(255 - x).
  std::vector<u8> turned(minimum.size() * 256);
  for (std::size_t i = 0; i < turned.size(); ++i) {
    turned[i] = static_cast<u8>(minimum[i / 256] != 0 ? 255 - i % 256 : i % 256);
  }
  const bool turns = std::any_of(minimum.begin(), minimum.end(), [](u8 mark) { return mark != 0; });
  if (turns) x = part(make_lut(x, next(x->h, x->w), turned));
  if (padding != Pair{0, 0}) {
    x = part(make_pad(x, next(x->h + 2 * padding.first, x->w + 2 * padding.second), padding.second,
                      padding.first));
  }
  for (const bool rows : {true, false}) {
    const i64 size = rows ? kernel.first : kernel.second;
    bool last = false;
    for (i64 reach = 1; !last;) {
      const i64 step = std::min(reach, size - reach);
      reach += step;
      last = reach == size;
      const Pair distance = rows ? Pair{step, 0} : Pair{0, step};
      const i64 every = !last ? 1 : rows ? stride.first : stride.second;
      const Pair strides = rows ? Pair{every, 1} : Pair{1, every};
      const i64 h = (x->h - distance.first - 1) / strides.first + 1;
      const i64 w = (x->w - distance.second - 1) / strides.second + 1;
      const Value* const to = last && !rows && !turns ? y : next(h, w);
      x = part(make_larger(x, to, distance, strides));
    }
  }
  if (turns) part(make_lut(x, y, turned));
}

void Program::mean(i64 x_id, i64 y_id, Pair kernel, Pair stride, i64 multiplier, i64 offset,
                   i64 shift, i64 low, i64 high) {
  check_open("mean");
  const Value& x = written("mean", "x", x_id);
  const Value& y = unwritten("mean", "y", y_id);
  check_window("mean", kernel, stride);
  check_shape("mean", y, x.c, window_count(x.h, kernel.first, stride.first, 0),
              window_count(x.w, kernel.second, stride.second, 0));
  const i64 largest = bounded_product({kernel.first, kernel.second, 255});
  if (largest >= kMaxBytes) {
    fail("mean", "kernel", "have sums below 2**31", text(kernel));
  }
  const Scalars s = scalars("mean", multiplier, 0, offset, shift, low, high, largest);
  constexpr int kPasses = 4;
  if (!worth_passes(kernel, {y.h, y.w}, {x.h, x.w}, kPasses)) {
    return append(make_mean(&x, &y, kernel, stride, s), y_id);
  }
  const Value* const sums = scratch(static_cast<i64>(sizeof(i32)) * x.c, y.h, x.w);
  part(make_sums_of_rows(&x, sums, kernel.first, stride.first));
  part(make_mean_of_columns(sums, &y, kernel.second, stride.second, s));
  close_node("mean: running sums", y_id);
}

void Program::add(i64 a_id, i64 b_id, i64 y_id, i64 multiplier_a, i64 multiplier_b, i64 offset,
                  i64 shift, i64 low, i64 high) {
  check_open("add");
  const Value& a = written("add", "a", a_id);
  const Value& b = written("add", "b", b_id);
  const Value& y = unwritten("add", "y", y_id);
  if (a.c != b.c || a.h != b.h || a.w != b.w) {
    fail("add", "b", "have shape " + shape_text(a), shape_text(b));
  }
  check_shape("add", y, a.c, a.h, a.w);
  append(make_add(&a, &b, &y,
                  scalars("add", multiplier_a, multiplier_b, offset, shift, low, high, 255)),
         y_id);
}

void Program::lut(i64 x_id, i64 y_id, const u8* table, Pair shape) {
  check_open("lut");
  const Value& x = written("lut", "x", x_id);
  const Value& y = unwritten("lut", "y", y_id);
  check_shape("lut", y, x.c, x.h, x.w);
  if (shape != Pair{x.c, 256}) {
    fail("lut", "table", "have shape " + text(Pair{x.c, 256}), text(shape));
  }
  append(make_lut(&x, &y, {table, table + x.c * 256}), y_id);
}

void Program::pad(i64 x_id, i64 y_id, i64 left, i64 right, i64 top, i64 bottom) {
  check_open("pad");
  const Value& x = written("pad", "x", x_id);
  const Value& y = unwritten("pad", "y", y_id);
  if (std::min({left, right, top, bottom}) < 0 ||
      std::max({left, right, top, bottom}) >= kMaxBytes) {
    fail("pad", "left, right, top, bottom", "be non-negative and below 2**31",
         text(std::vector<i64>{left, right, top, bottom}));
  }
  check_shape("pad", y, x.c, x.h + top + bottom, x.w + left + right);
  check_zero("pad", "x", x, y);
  append(make_pad(&x, &y, left, top), y_id);
}

void Program::repeat(i64 x_id, i64 y_id, i64 factor) {
  check_open("repeat");
  const Value& x = written("repeat", "x", x_id);
  const Value& y = unwritten("repeat", "y", y_id);
  if (factor < 1 || factor >= kMaxBytes) {
    fail("repeat", "factor", "be positive and below 2**31", std::to_string(factor));
  }
  check_shape("repeat", y, x.c, x.h * factor, x.w * factor);
  check_zero("repeat", "x", x, y);
  append(make_repeat(&x, &y, factor), y_id);
}

void Program::concat(const std::vector<i64>& x_ids, i64 y_id, const i32* order, i64 size) {
  check_open("concat");
  if (x_ids.empty()) fail("concat", "xs", "hold a value", "none");
  const Value& y = unwritten("concat", "y", y_id);
  const Value& first = written("concat", "xs", x_ids[0]);
  std::vector<const Value*> xs;
  i64 channels = 0;
  for (const i64 id : x_ids) {
    const Value& x = written("concat", "xs", id);
    if (x.h != first.h || x.w != first.w) {
      fail("concat", "xs", "have the rows and columns of the first, " + shape_text(first),
           shape_text(x));
    }
    check_zero("concat", "xs", x, y);
    channels += x.c;
    xs.push_back(&x);
  }
  check_shape("concat", y, channels, first.h, first.w);
  if (size != channels) {
    fail("concat", "order", "have " + std::to_string(channels) + " values", std::to_string(size));
  }
  std::vector<i32> places(static_cast<std::size_t>(channels), -1);
  for (i64 c = 0; c < channels; ++c) {
    const i64 stacked = order[c];
    if (stacked < 0 || stacked >= channels || places[static_cast<std::size_t>(stacked)] != -1) {
      fail("concat", "order", "be a permutation of [0, " + std::to_string(channels) + ")",
           std::to_string(stacked) + " at " + std::to_string(c));
    }
    places[static_cast<std::size_t>(stacked)] = static_cast<i32>(c);
  }
  append(make_concat(std::move(xs), &y, std::move(places)), y_id);
}

void Program::linear(i64 x_id, const i8* weight, Pair shape, const float* scale, i64 scales,
                     const float* bias, i64 biases) {
  check_open("linear");
  const Value& x = written("linear", "x", x_id);
  const i64 inputs = x.c * x.h * x.w;
  if (shape.first < 1 || shape.second != inputs) {
    fail("linear", "weight", "have shape [O, " + std::to_string(inputs) + "]", text(shape));
  }
  if (scales != shape.first || biases != shape.first) {
    fail("linear", "scale, bias", "have " + std::to_string(shape.first) + " values each",
         text(Pair{scales, biases}));
  }
  const auto geo = make_geometry("linear", Op::conv, {x.h, x.w, x.c}, {shape.first, x.h, x.w, x.c},
                                 {1, 1}, {0, 0}, 1);
  const auto filters = static_cast<std::size_t>(shape.first);
  auto layer = std::make_unique<PackedLayer>(
      *kernels_, Op::conv, geo, weight,
      Requantisation{std::vector<i32>(filters), std::vector<i64>(filters), 1, 0, 255, 0});
  append_last(make_linear(&x, scratch(static_cast<i64>(sizeof(i32)) * shape.first, 1, 1),
                          std::move(layer), {scale, scale + scales}, {bias, bias + biases}),
              geo);
}

const Value* Program::scratch(i64 c, i64 h, i64 w, const Value* home) {
  scratch_.push_back({c, h, w, 0});
  scratch_.back().home = home;
  return &scratch_.back();
}

void Program::append_last(NativeOpPointer op, const Geometry& geo) {
  append(std::move(op));
  outputs_ = geo.o;
  work_ += static_cast<double>(geo.o) * static_cast<double>(geo.summands());
}

void Program::compile() {
  if (compiled_) fail("compile", "program", "be compiled once", "one that is");
  if (!input_.has_value() || outputs_ == 0) {
    fail("compile", "program", "have an input and end with a linear layer",
         input_.has_value() ? "no linear layer" : "no input");
  }
  for (const auto* values : {&values_, &scratch_}) {
    for (const Value& v : *values) {
      if (bounded_product({v.h + 2 * v.border_h, v.w + 2 * v.border_w, v.c}) >= kMaxBytes) {
        fail("compile", "padding", "leave every value with its border below 2**31 bytes",
             shape_text(v));
      }
    }
  }
  ops_.insert(ops_.begin(), make_input(&values_[static_cast<std::size_t>(*input_)], table_));
  nodes_.insert(nodes_.begin(), 0);
  PackedLayer* last = nullptr;
  for (const NativeOpPointer& op : ops_) {
    op->prepare();
    if (op->layer() == nullptr) continue;
    if (last != nullptr) last->set_next(op->layer());
    last = op->layer();
  }
  plan();
  compiled_ = true;
}

// Greedy: the largest value first, each at the lowest place that is free while it lives.
void Program::plan() {
  constexpr i64 kLine = 64;
  struct Block {
    Value* value;
    std::size_t first, last;
    i64 size;
  };
  std::vector<Block> blocks;
  std::unordered_map<const Value*, std::size_t> numbers;
  for (auto* values : {&values_, &scratch_}) {
    for (Value& value : *values) {
      if (value.home != nullptr) continue;
      numbers[&value] = blocks.size();
      blocks.push_back({&value, ops_.size(), 0, 0});
    }
  }
  for (std::size_t i = 0; i < ops_.size(); ++i) {
    std::vector<const Value*> used = ops_[i]->reads();
    used.push_back(ops_[i]->writes());
    for (const Value* value : used) {
      Block& block = blocks[numbers.at(value->home == nullptr ? value : value->home)];
      block.first = std::min(block.first, i);
      block.last = i;
      block.size = std::max(block.size, (value->bytes() + kSlack + kLine - 1) / kLine * kLine);
    }
  }
  const auto unused = [&](const Block& block) { return block.first == ops_.size(); };
  blocks.erase(std::remove_if(blocks.begin(), blocks.end(), unused), blocks.end());
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block& a, const Block& b) { return a.size > b.size; });
  std::vector<Block> placed;  // by offset
  for (const Block& block : blocks) {
    i64 offset = 0;
    for (const Block& other : placed) {
      if (other.last < block.first || block.last < other.first) continue;
      if (offset + block.size <= other.value->offset) break;
      offset = std::max(offset, other.value->offset + other.size);
    }
    block.value->offset = offset;
    arena_size_ = std::max(arena_size_, offset + block.size);
    const auto after = std::find_if(placed.begin(), placed.end(), [&](const Block& other) {
      return other.value->offset > offset;
    });
    placed.insert(after, block);
  }
  for (Value& value : scratch_) {
    if (value.home != nullptr) value.offset = value.home->offset;
  }
}

int Program::prepare(const std::array<i64, 4>& input_shape, Pair output_shape, bool quantised,
                     int threads, i64 memory, const char* function) const {
  check_compiled(function);
  const Value& x = values_[static_cast<std::size_t>(*input_)];
  if (input_shape[1] != x.c || input_shape[2] != x.h || input_shape[3] != x.w) {
    fail(function, "input",
         "have shape [N, " + std::to_string(x.c) + ", " + std::to_string(x.h) + ", " +
             std::to_string(x.w) + "]",
         text(std::vector<i64>(input_shape.begin(), input_shape.end())));
  }
  if (output_shape != Pair{input_shape[0], outputs_}) {
    fail(function, "output", "have shape " + text(Pair{input_shape[0], outputs_}),
         text(output_shape));
  }
  if (!quantised && table_.empty()) {
    fail(function, "quantised", "be true for a program without a table of pixels", "false");
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
  while (arenas_.size() < count) arenas_.emplace_back(arena_size_);
}

Frame Program::frame(const Batch& batch, i64 image, u8* arena) const {
  const Value& x = values_[static_cast<std::size_t>(*input_)];
  return {arena, batch.input + image * x.c * x.h * x.w, batch.quantised,
          batch.output + image * outputs_};
}

void Program::run_single_threaded(const Frame& frame, int worker, Watch& watch) const {
  for (const NativeOpPointer& op : ops_) {
    const i64 tasks = op->tasks(1);
    for (i64 task = 0; task < tasks; ++task) {
      if (watch.stops(worker)) return;
      op->run(frame, task, tasks);
    }
  }
}

// Called by all threads of a team. A thread does its own range of an op's tasks, where it finds
// the cached results of its own, then the remaining ones of others. The next op starts when all
// tasks are done, not when all threads have arrived: a descheduled thread delays no other.
void Program::run_shared(const Frame& frame, int worker, int team, Watch& watch, double* seconds) {
  using Clock = std::chrono::steady_clock;
  Progress* progress = progress_.data();
  for (std::size_t i = 0; i < ops_.size(); ++i, progress += team) {
    const auto start = Clock::now();
    const i64 tasks = ops_[i]->tasks(team);
    i64 done = 0;
    for (int k = 0; k < team; ++k) {
      const int owner = (worker + k) % team;
      const i64 begin = owner * tasks / team, end = (owner + 1) * tasks / team;
      if (progress[owner].taken >= end - begin) continue;
      for (i64 task; !watch.stops(worker) && (task = begin + progress[owner].taken++) < end;) {
        ops_[i]->run(frame, task, tasks);
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

void Program::run_together(const Frame& frame, int team, Watch& watch, double* seconds) {
  const std::size_t count = static_cast<std::size_t>(team) * ops_.size();
  if (progress_.size() < count) progress_ = std::vector<Progress>(count);
  for (Progress& progress : progress_) progress.taken = progress.done = 0;
  team_.run(team, [&](int worker) { run_shared(frame, worker, team, watch, seconds); });
}

// Whole images go to single threads, which need not wait for each other, where the memory is enough
// and images are not large; the threads share the images that are left over.
void Program::run(const u8* input, const std::array<i64, 4>& input_shape, float* output,
                  Pair output_shape, bool quantised, int threads, i64 memory,
                  const Interrupted& interrupted) {
  const std::lock_guard lock(running_);
  const int team = prepare(input_shape, output_shape, quantised, threads, memory, "run");
  const Batch batch{input, input_shape[0], output, quantised};
  const bool apart = team <= memory / arena_size_ && work_ <= kMaxSingleThreaded;
  const i64 alone = apart ? batch.images - batch.images % team : 0;
  make_arenas(alone > 0 ? static_cast<std::size_t>(team) : 1);
  Watch watch(interrupted);
  next_image_ = 0;
  if (alone > 0) {
    team_.run(team, [&](int worker) {
      u8* const own = arenas_[static_cast<std::size_t>(worker)].data();
      for (i64 image; !watch.stopped() && (image = next_image_++) < alone;) {
        run_single_threaded(frame(batch, image, own), worker, watch);
      }
    });
  }
  for (i64 image = alone; image < batch.images && !watch.stopped(); ++image) {
    run_together(frame(batch, image, arenas_[0].data()), team, watch, nullptr);
  }
  if (watch.stopped()) throw Interruption();
}

std::vector<double> Program::profile(const u8* input, const std::array<i64, 4>& input_shape,
                                     float* output, Pair output_shape, bool quantised, int threads,
                                     i64 memory, const Interrupted& interrupted) {
  const std::lock_guard lock(running_);
  const int team = prepare(input_shape, output_shape, quantised, threads, memory, "profile");
  const Batch batch{input, input_shape[0], output, quantised};
  std::vector<double> seconds(names_.size());
  make_arenas(1);
  Watch watch(interrupted);
  for (i64 image = 0; image < batch.images && !watch.stopped(); ++image) {
    run_together(frame(batch, image, arenas_[0].data()), team, watch, seconds.data());
  }
  if (watch.stopped()) throw Interruption();
  return seconds;
}

i64 Program::arena_bytes(i64 batch) const {
  check_compiled("arena_bytes");
  if (batch < 0) fail("arena_bytes", "batch", "be non-negative", std::to_string(batch));
  return batch == 0 ? 0 : arena_size_;
}

std::vector<std::string> Program::describe() const {
  check_compiled("describe");
  return names_;
}

}  // namespace mulfree::runtime

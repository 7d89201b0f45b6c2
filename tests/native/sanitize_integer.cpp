// Runs the integer kernels over random geometries in heap blocks of exactly the size of each
// tensor, and programs of random calls, sensible or not, on every instruction set, which must
// agree. Built with AddressSanitizer and UBSan: a read or write outside a tensor, or an undefined
// operation, ends the program. Prints the numbers of values computed and calls refused, a digest of
// the values of one instruction set, and the instruction sets.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <thread>

#include "runtime/csrc/program.h"

namespace {

using mulfree::nodes::Fields;
using mulfree::nodes::Geometry;
using mulfree::nodes::i32;
using mulfree::nodes::i8;
using mulfree::nodes::Op;
using mulfree::runtime::i64;
using mulfree::runtime::Pair;
using mulfree::runtime::Program;
using mulfree::runtime::u8;

// At most one draw in the arguments of a call: their order of evaluation depends on the compiler.
struct Random {
  std::uint64_t state;

  // In [low, high].
  i64 in(i64 low, i64 high) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return low + static_cast<i64>((state >> 33) % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return in(0, 99) < percent; }
  // Seldom a number that no argument is meant to be.
  i64 wild(i64 sensible) {
    static const i64 kWild[] = {0,
                                -1,
                                3,
                                255,
                                256,
                                i64{1} << 31,
                                (i64{1} << 31) - 1,
                                i64{1} << 62,
                                std::numeric_limits<i64>::min(),
                                std::numeric_limits<i64>::max()};
    return chance(1) ? kWild[in(0, 9)] : sensible;
  }
  Pair pair(i64 low, i64 high) { return {wild(in(low, high)), wild(in(low, high))}; }
  template <class T>
  std::vector<T> values(i64 count) {
    std::vector<T> out(static_cast<std::size_t>(count));
    for (T& value : out) value = static_cast<T>(chance(10) ? 255 * in(0, 1) : in(0, 255));
    return out;
  }
};

std::vector<i32> run_window(Random& random, const std::string& isa) {
  const auto& kernels = mulfree::nodes::select_kernels("sanitize", isa);
  const Op op = random.chance(50) ? Op::adder : Op::conv;
  i64 groups = random.in(1, 2), c = groups * random.in(1, 20), o = groups * random.in(1, 80);
  if (random.chance(20)) groups = o = c;
  const i64 kh = random.in(1, 4), kw = random.in(1, 4);
  const Pair padding = {random.in(0, 2), random.in(0, 2)};
  const Pair stride = {random.in(1, 3), random.in(1, 3)};
  const i64 h = kh + random.in(0, 5), w = kw + random.in(0, 5), n = random.in(0, 2);
  const Geometry geo = mulfree::nodes::make_geometry(
      "sanitize", op, {h, w, c}, {o, kh, kw, c / groups}, stride, padding, groups);
  const auto x = random.values<u8>(n * h * w * c);
  const auto weight = random.values<u8>(o * geo.summands());
  std::vector<i32> out(static_cast<std::size_t>(n * geo.ho * geo.wo * o));
  mulfree::nodes::window_sums(kernels, op, geo, n, x.data(), 255, weight.data(), out.data(),
                              static_cast<int>(random.in(1, 2)));
  return out;
}

struct Shape {
  i64 c, h, w;
};

template <class T>
Fields::Array array(const std::vector<T>& values, const std::vector<i64>& shape) {
  const char* kind = std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : "u";
  return {kind + std::to_string(8 * sizeof(T)), shape, values.data()};
}

// Random calls; those that are refused are counted and forgotten.
class RandomProgram {
 public:
  RandomProgram(Random& random, const std::string& isa) : random_(random), program_(isa) {}

  // The outputs of all runs.
  std::vector<float> run() {
    std::vector<float> outputs;
    // Windows of images of some size are taken row by row and column by column.
    const bool large = random_.chance(20);
    const i64 side = large ? 30 : 9;
    const Shape input = {random_.in(1, large ? 3 : 20), random_.in(1, side), random_.in(1, side)};
    const i64 x = value(input);
    const auto table = random_.values<u8>(input.c * 256);
    attempt([&] { program_.input(random_.wild(x), table.data(), {input.c, 256}); });
    for (i64 nodes = random_.in(0, 6); nodes > 0; --nodes) node();
    const i64 first = linear(random_.chance(90) ? static_cast<i64>(shapes_.size()) - 1 : any());
    i64 classes = first;
    std::size_t outputs_of_one = 1;
    for (; outputs_of_one < 3 && random_.chance(20); ++outputs_of_one) classes += linear(any());
    if (!attempt([&] { compile(); })) return outputs;
    const i64 n = random_.in(0, 3);
    const auto images = random_.values<u8>(n * input.c * input.h * input.w);
    std::vector<float> output(static_cast<std::size_t>(n * classes));
    for (const bool quantised : {false, true}) {
      attempt([&] {
        const std::array<i64, 4> shape = {n, input.c, input.h, input.w};
        const int threads = static_cast<int>(random_.in(1, 3));
        const i64 memory = program_.arena_bytes() * random_.in(1, 3);
        program_.run(images.data(), shape, output.data(), {n, classes}, quantised, threads, memory);
        outputs.insert(outputs.end(), output.begin(), output.end());
        program_.profile(images.data(), shape, output.data(), {n, classes}, quantised, threads);
        outputs.insert(outputs.end(), output.begin(), output.end());
      });
      leave(images, {n, input.c, input.h, input.w}, first, outputs_of_one, quantised, outputs);
    }
    return outputs;
  }

  int refused() const { return refused_; }

 private:
  // Early exit; refused unless all outputs have one size.
  void leave(const std::vector<u8>& images, const std::array<i64, 4>& shape, i64 classes,
             std::size_t count, bool quantised, std::vector<float>& outputs) {
    std::vector<double> thresholds(random_.chance(90) ? count - 1 : count);
    for (double& threshold : thresholds) threshold = 0.1 * static_cast<double>(random_.in(0, 12));
    std::vector<float> output(static_cast<std::size_t>(shape[0] * classes));
    std::vector<i64> taken(static_cast<std::size_t>(shape[0]));
    const int threads = static_cast<int>(random_.in(1, 3));
    const i64 memory = random_.in(1, 3), images_taken = random_.chance(95) ? shape[0] : 7;
    const bool entropy = random_.chance(50);
    attempt([&] {
      program_.run_exits(images.data(), shape, output.data(), {shape[0], classes}, taken.data(),
                         images_taken, {thresholds, entropy}, quantised, threads,
                         program_.arena_bytes() * memory);
      outputs.insert(outputs.end(), output.begin(), output.end());
      outputs.insert(outputs.end(), taken.begin(), taken.end());
    });
  }

  template <class Call>
  bool attempt(const Call& call) {
    try {
      call();
      return true;
    } catch (const std::invalid_argument&) {
      ++refused_;
      return false;
    }
  }

  i64 value(const Shape& shape) {
    attempt([&] {
      // A program refuses a wild shape; the sensible one that replaces it is always accepted.
      const Shape wild = {random_.wild(shape.c), random_.wild(shape.h), random_.wild(-1)};
      program_.value(wild.c, wild.h, wild.w, 0);
    });
    shapes_.push_back(shape);
    return program_.value(shape.c, shape.h, shape.w, zero_);
  }

  i64 any() { return random_.in(0, static_cast<i64>(shapes_.size()) - 1); }

  // Outputs of a classifier; 0 if it is refused.
  i64 linear(i64 x) {
    const Shape s = shapes_[static_cast<std::size_t>(x)];
    const i64 classes = random_.in(1, 70), inputs = s.c * s.h * s.w;
    const auto weight = random_.values<i8>(classes * inputs);
    const std::vector<float> scale(static_cast<std::size_t>(classes), 0.5f);
    const bool made = attempt([&] {
      program_.append({random_.wild(x)}, std::nullopt,
                      {"linear",
                       {{"weight", array(weight, {classes, inputs})},
                        {"scale", array(scale, {classes})},
                        {"bias", array(scale, {classes})}}});
    });
    return made ? classes : 0;
  }

  // Each block at the first place that is free of those before it; seldom a wild one.
  void compile() {
    const auto blocks = program_.lifetimes();
    std::vector<i64> offsets;
    i64 size = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      i64 offset = 0;
      for (std::size_t j = 0; j < i;) {
        const auto &a = blocks[i], &b = blocks[j];
        const bool apart = a.last < b.first || b.last < a.first || offset + a.bytes <= offsets[j] ||
                           offsets[j] + b.bytes <= offset;
        if (!apart) offset = (offsets[j] + b.bytes + 63) / 64 * 64;
        j = apart ? j + 1 : 0;
      }
      offsets.push_back(offset);
      size = std::max(size, offset + blocks[i].bytes);
    }
    for (i64& offset : offsets) offset = random_.wild(offset);
    program_.compile(offsets, random_.wild(size));
  }

  void node() {
    const i64 x = any();
    const Shape s = shapes_[static_cast<std::size_t>(x)];
    const Pair kernel = {random_.in(1, std::min<i64>(s.h, 4)),
                         random_.in(1, std::min<i64>(s.w, 4))};
    const Pair any_kernel = {random_.in(1, s.h), random_.in(1, s.w)};
    const Pair stride = random_.pair(1, 2);
    const auto factor = [&] { return random_.wild(random_.in(-(1 << 20), 1 << 20)); };
    std::map<std::string, Fields::Field> fields = {{"kernel", any_kernel},
                                                   {"stride", stride},
                                                   {"multiplier", factor()},
                                                   {"other_multiplier", factor()},
                                                   {"residual_multiplier", factor()},
                                                   {"offset", random_.in(-1000000, 1000000)},
                                                   {"shift", random_.wild(random_.in(1, 40))},
                                                   {"clamp_min", random_.wild(0)},
                                                   {"clamp_max", random_.wild(255)}};
    const auto pooled = [&](i64 c, Pair kernel, Pair padding, Pair excess = {0, 0}) {
      Shape y = {c, 1, 1};
      const bool forward = std::min(stride.first, stride.second) > 0;
      if (forward && std::min(padding.first, padding.second) >= 0 &&
          std::max(padding.first, padding.second) < 100) {
        y.h = mulfree::nodes::window_count(s.h + excess.first, kernel.first, stride.first,
                                           padding.first);
        y.w = mulfree::nodes::window_count(s.w + excess.second, kernel.second, stride.second,
                                           padding.second);
      }
      return Shape{y.c, std::clamp<i64>(y.h, 1, 99), std::clamp<i64>(y.w, 1, 99)};
    };
    std::string op;
    std::vector<i64> reads = {random_.wild(x)};
    Shape made = s;
    // Arrays of fields.
    std::vector<u8> bytes;
    std::vector<i32> numbers;
    std::vector<i64> offsets;
    switch (random_.in(0, 8)) {
      case 0: {
        const bool adder = random_.chance(50);
        op = adder ? "adder2d" : "conv2d";
        const i64 groups = s.c % 2 == 0 ? 2 : 1;
        const i64 o = random_.chance(30) ? s.c : groups * random_.in(1, 40);
        const i64 g = random_.chance(20) ? s.c : groups;
        if (o % g != 0) return;
        const Pair padding = random_.pair(0, 2);
        const Pair excess = random_.chance(70) ? Pair{0, 0} : random_.pair(-1, 1);
        made = pooled(o, kernel, padding, excess);
        bytes = random_.values<u8>(o * kernel.first * kernel.second * (s.c / g));
        numbers.resize(static_cast<std::size_t>(o));
        offsets.resize(numbers.size());
        for (i32& m : numbers) m = static_cast<i32>(random_.wild(random_.in(-4000, 4000)));
        for (i64& b : offsets) b = random_.in(-1000000, 1000000);
        auto weight = array(bytes, {o, kernel.first, kernel.second, s.c / g});
        if (!adder) weight.dtype = "i8";
        fields["weight"] = weight;
        fields["padding"] = padding;
        fields["padding_excess"] = excess;
        fields["groups"] = random_.wild(g);
        fields["multiplier"] = array(numbers, {o});
        fields["offset"] = array(offsets, {random_.wild(o)});
        if (random_.chance(50)) reads.push_back(any());
        break;
      }
      case 1: {
        op = "max_pool";
        const Pair padding = {random_.in(0, any_kernel.first / 2),
                              random_.in(0, any_kernel.second / 2)};
        made = pooled(s.c, any_kernel, padding);
        bytes = random_.values<u8>(s.c);
        for (u8& mark : bytes) mark = static_cast<u8>(mark % 2);
        fields["padding"] = padding;
        fields["minimum"] = array(bytes, {random_.wild(s.c)});
        break;
      }
      case 2:
        op = "mean";
        made = pooled(s.c, any_kernel, {0, 0});
        break;
      case 3:
        op = "add";
        reads.push_back(any());
        break;
      case 4:
        op = "lut";
        bytes = random_.values<u8>(s.c * 256);
        // A table for all channels.
        if (random_.chance(50)) {
          for (std::size_t i = 256; i < bytes.size(); ++i) bytes[i] = bytes[i - 256];
        }
        fields["table"] = array(bytes, {random_.wild(s.c), 256});
        break;
      case 5: {
        op = "pad";
        const i64 left = random_.in(0, 2), right = random_.in(0, 2), top = random_.in(0, 2);
        made = {s.c, s.h + top, s.w + left + right};
        fields["left"] = random_.wild(left);
        fields["right"] = right;
        fields["top"] = random_.wild(top);
        fields["bottom"] = random_.wild(0);
        break;
      }
      case 6: {
        op = "gate";
        const auto gates = [&](const Shape& g) { return g.c == s.c && g.h == 1 && g.w == 1; };
        const auto gate = std::find_if(shapes_.begin(), shapes_.end(), gates);
        reads.push_back(gate == shapes_.end() ? any() : gate - shapes_.begin());
        break;
      }
      case 7:
        op = "concat";
        numbers.resize(static_cast<std::size_t>(2 * s.c));
        for (std::size_t c = 0; c < numbers.size(); ++c) numbers[c] = static_cast<i32>(c);
        std::reverse(numbers.begin(), numbers.end());
        numbers[0] = static_cast<i32>(random_.wild(numbers[0]));
        made = {2 * s.c, s.h, s.w};
        reads.push_back(x);
        fields["order"] = array(numbers, {random_.chance(90) ? 2 * s.c : 0});
        break;
      default: {
        op = "repeat";
        const i64 by = s.h * s.w < 50 ? random_.in(1, 2) : 1;
        made = {s.c, s.h * by, s.w * by};
        fields["factor"] = random_.wild(by);
        break;
      }
    }
    // Seldom without a field, or with one of another type.
    for (auto field = fields.begin(); field != fields.end();) {
      if (random_.chance(1)) field->second = Pair{1, 1};
      field = random_.chance(1) ? fields.erase(field) : std::next(field);
    }
    const i64 y = random_.wild(value(made));
    attempt([&] { program_.append(reads, y, {op, fields}); });
  }

  Random& random_;
  Program program_;
  std::vector<Shape> shapes_;
  i64 zero_ = 7;
  int refused_ = 0;
};

// Teams do all work once, whoever of their threads comes, also while several of them work and end.
bool teams_work() {
  constexpr int kTeams = 3, kRuns = 300, kTasks = 50;
  std::atomic<i64> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kTeams; ++caller) {
    callers.emplace_back([&, caller] {
      mulfree::runtime::Team team;
      for (int run = 0; run < kRuns; ++run) {
        const int size = 1 + (run + caller) % 4;
        std::vector<int> done(kTasks), seen(static_cast<std::size_t>(size));
        std::atomic<int> next{0};
        team.run(size, [&](int worker) {
          ++seen[static_cast<std::size_t>(worker)];
          for (int task; (task = next++) < kTasks;) ++done[static_cast<std::size_t>(task)];
        });
        wrong += std::count(done.begin(), done.end(), 1) != kTasks || seen[0] != 1 ||
                 *std::max_element(seen.begin(), seen.end()) != 1;
        // Some find the others asleep.
        if (run % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  return wrong == 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (!teams_work()) {
    std::fprintf(stderr, "a team has not done its work once\n");
    return 1;
  }
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 150;
  std::size_t values = 0;
  int refused = 0;
  std::uint64_t digest = 14695981039346656037u;
  // FNV-1a.
  const auto update = [&](const auto& numbers) {
    const auto* bytes = reinterpret_cast<const u8*>(numbers.data());
    for (std::size_t k = 0; k < numbers.size() * sizeof numbers[0]; ++k) {
      digest = (digest ^ bytes[k]) * 1099511628211u;
    }
  };
  for (int i = 0; i < rounds; ++i) {
    std::vector<i32> sums;
    std::vector<float> outputs;
    bool first = true;
    for (const std::string& isa : mulfree::nodes::supported_isas()) {
      // The same calls for each instruction set.
      Random random{static_cast<std::uint64_t>(i) + 1};
      const std::vector<i32> own_sums = run_window(random, isa);
      RandomProgram program(random, isa);
      const std::vector<float> own_outputs = program.run();
      if (first) {
        sums = own_sums, outputs = own_outputs;
        update(sums);
        update(outputs);
      }
      first = false;
      if (own_sums != sums || own_outputs != outputs) {
        std::fprintf(stderr, "%s differs in round %d\n", isa.c_str(), i);
        return 1;
      }
      values += own_sums.size() + own_outputs.size();
      refused += program.refused();
    }
  }
  std::printf("%zu %d %016llx", values, refused, static_cast<unsigned long long>(digest));
  for (const std::string& isa : mulfree::nodes::supported_isas()) std::printf(" %s", isa.c_str());
  std::printf("\n");
  return 0;
}

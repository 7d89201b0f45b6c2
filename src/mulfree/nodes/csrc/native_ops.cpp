#include "native_ops.h"

#include <algorithm>
#include <cstring>

namespace mulfree::nodes {
namespace {

// Loops that write bytes keep their bounds in local variables: a byte may alias any member.

// Tasks per thread, for balance.
constexpr i64 kTasksPerThread = 4;
// Bytes that one task writes, at most: runs are interrupted between tasks.
constexpr i64 kTaskBytes = 1 << 22;

void fill_border(const Value& value, u8* arena) {
  u8* const first = arena + value.offset;
  const auto band = static_cast<std::size_t>(value.border_h * value.row());
  const auto side = static_cast<std::size_t>(value.border_w * value.c);
  std::memset(first, value.zero, band);
  std::memset(first + value.bytes() - band, value.zero, band);
  for (i64 y = 0; side > 0 && y < value.h; ++y) {
    u8* const row = first + (value.border_h + y) * value.row();
    std::memset(row, value.zero, side);
    std::memset(row + value.row() - side, value.zero, side);
  }
}

u8 clamp_byte(i64 v, const Scalars& s) {
  return static_cast<u8>(std::clamp<i64>(v >> s.shift, s.low, s.high));
}

class Input final : public NativeOp {
 public:
  Input(const Value* y, std::vector<u8> table) : NativeOp({}, y), table_(std::move(table)) {}
  std::string describe() const override { return "input"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value& y = *writes();
    const i64 width = y.w, channels = y.c;
    for (i64 row = begin; row < end; ++row) {
      for (i64 c = 0; c < channels; ++c) {
        u8* const to = y.origin(frame.arena) + row * y.row() + c;
        const u8* const from = frame.input + (c * y.h + row) * width;
        if (frame.quantised) {
#pragma GCC unroll 8
          for (i64 x = 0; x < width; ++x) to[x * channels] = from[x];
        } else {
          const u8* const table = table_.data() + c * 256;
#pragma GCC unroll 8
          for (i64 x = 0; x < width; ++x) to[x * channels] = table[from[x]];
        }
      }
    }
  }

 private:
  std::vector<u8> table_;
};

// The first byte of the first window of a layer with this padding.
const u8* first_window(const Value& x, Pair padding, u8* arena) {
  return x.origin(arena) - padding.first * x.row() - padding.second * x.c;
}

class WindowOp final : public NativeOp {
 public:
  WindowOp(const char* op, const Value* x, const Value* y, const Value* residual,
           std::unique_ptr<PackedLayer> layer)
      : NativeOp(residual == nullptr ? std::vector{x} : std::vector{x, residual}, y),
        op_(op),
        layer_(std::move(layer)) {}
  std::string describe() const override { return std::string(op_) + ": " + layer_->name(); }
  void prepare() override { layer_->set_row(reads()[0]->row()); }
  PackedLayer* layer() const override { return layer_.get(); }
  i64 tasks(int team) const override { return layer_->tasks(team); }

 protected:
  void work(const Frame& frame, i64 task, i64 tasks) const override {
    const Value &x = *reads()[0], &y = *writes();
    Image image{};
    image.x = first_window(x, layer_->geometry().padding, frame.arena);
    image.y = y.origin(frame.arena);
    image.y_row = y.row();
    image.y_pixel = y.c;
    if (reads().size() > 1) {
      image.residual = reads()[1]->origin(frame.arena);
      image.residual_row = reads()[1]->row();
      image.residual_pixel = y.c;
    }
    layer_->run(image, task, tasks);
  }

 private:
  const char* op_;
  std::unique_ptr<PackedLayer> layer_;
};

class MaxPool final : public NativeOp {
 public:
  MaxPool(const Value* x, const Value* y, Pair kernel, Pair stride, Pair padding,
          std::vector<u8> minimum)
      : NativeOp({x}, y), kernel_(kernel), stride_(stride), padding_(padding), flip_(minimum) {
    // min(x) = 255 - max(255 - x), and 255 - x = x ^ 255.
    for (u8& flip : flip_) flip = flip != 0 ? 255 : 0;
    flips_ = std::any_of(flip_.begin(), flip_.end(), [](u8 flip) { return flip != 0; });
    flip_.resize(flip_.size() + kChannels);
  }
  std::string describe() const override { return "max_pool"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const i64 top = row * stride_.first - padding_.first;
      const i64 y0 = std::max<i64>(top, 0), y1 = std::min(top + kernel_.first, x.h);
      for (i64 column = 0; column < y.w; ++column) {
        const i64 left = column * stride_.second - padding_.second;
        const i64 x0 = std::max<i64>(left, 0), x1 = std::min(left + kernel_.second, x.w);
        const u8* const window = x.origin(frame.arena) + y0 * x.row() + x0 * x.c;
        u8* const to = y.origin(frame.arena) + row * y.row() + column * y.c;
        for (i64 c = 0, all = y.c; c < all; c += kChannels) {
          u8 best[kChannels];
          flips_ ? best_of<true>(window + c, y1 - y0, x1 - x0, flip_.data() + c, best)
                 : best_of<false>(window + c, y1 - y0, x1 - x0, nullptr, best);
          std::memcpy(to + c, best, static_cast<std::size_t>(std::min(kChannels, all - c)));
        }
      }
    }
  }

 private:
  static constexpr i64 kChannels = 64;
  static_assert(kChannels <= kSlack);

  // Reads whole pieces of channels; lanes after the last channel are ignored.
  template <bool kFlips>
  void best_of(const u8* window, i64 height, i64 width, const u8* flip, u8* best) const {
    // A vector of the baseline: plain bytes would be spilled, and each step depend on the last.
    typedef u8 Piece __attribute__((vector_size(16)));
    constexpr int kPieces = kChannels / sizeof(Piece);
    const auto piece = [](const u8* bytes, int i) {
      Piece out;
      std::memcpy(&out, bytes + i * sizeof(Piece), sizeof out);
      return out;
    };
    Piece most[kPieces] = {};
    for (i64 sy = 0; sy < height; ++sy) {
      const u8* from = window + sy * reads()[0]->row();
      for (i64 sx = 0; sx < width; ++sx, from += reads()[0]->c) {
#pragma GCC unroll 4
        for (int i = 0; i < kPieces; ++i) {
          const Piece x = kFlips ? piece(from, i) ^ piece(flip, i) : piece(from, i);
          most[i] = x > most[i] ? x : most[i];
        }
      }
    }
    for (int i = 0; kFlips && i < kPieces; ++i) most[i] ^= piece(flip, i);
    std::memcpy(best, most, sizeof most);
  }

  Pair kernel_, stride_, padding_;
  std::vector<u8> flip_;
  bool flips_;
};

class Larger final : public NativeOp {
 public:
  Larger(const Value* x, const Value* y, Pair distance, Pair stride)
      : NativeOp({x}, y), distance_(distance), stride_(stride) {}
  std::string describe() const override { return "larger"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    const i64 run = stride_.second == 1 ? y.w * y.c : y.c;
    const i64 step = stride_.second * x.c, length = y.w * y.c;
    const i64 distance = distance_.first * x.row() + distance_.second * x.c;
    for (i64 row = begin; row < end; ++row) {
      const u8* a = x.origin(frame.arena) + row * stride_.first * x.row();
      u8* to = y.origin(frame.arena) + row * y.row();
      for (const u8* const last = to + length; to != last; to += run, a += step) {
        const u8* const b = a + distance;
        for (i64 i = 0; i < run; ++i) to[i] = std::max(a[i], b[i]);
      }
    }
  }

 private:
  Pair distance_, stride_;
};

class Mean final : public NativeOp {
 public:
  Mean(const Value* x, const Value* y, Pair kernel, Pair stride, Scalars scalars)
      : NativeOp({x}, y), kernel_(kernel), stride_(stride), scalars_(scalars) {}
  std::string describe() const override { return "mean"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      for (i64 column = 0; column < y.w; ++column) {
        const u8* const window =
            x.origin(frame.arena) + row * stride_.first * x.row() + column * stride_.second * x.c;
        u8* const to = y.origin(frame.arena) + row * y.row() + column * y.c;
        for (i64 c = 0; c < y.c; c += kChannels) {
          channels(window + c, std::min(kChannels, y.c - c), to + c);
        }
      }
    }
  }

 private:
  static constexpr i64 kChannels = 64;

  void channels(const u8* window, i64 count, u8* to) const {
    i32 sums[kChannels] = {};
    for (i64 sy = 0; sy < kernel_.first; ++sy) {
      for (i64 sx = 0; sx < kernel_.second; ++sx) {
        const u8* const from = window + sy * reads()[0]->row() + sx * reads()[0]->c;
        for (i64 c = 0; c < count; ++c) sums[c] += from[c];
      }
    }
    const Scalars s = scalars_;
    for (i64 c = 0; c < count; ++c) {
      to[c] = clamp_byte(i64{sums[c]} * s.multiplier + s.offset, s);
    }
  }

  Pair kernel_, stride_;
  Scalars scalars_;
};

class SumsOfRows final : public NativeOp {
 public:
  SumsOfRows(const Value* x, const Value* sums, i64 kernel, i64 stride)
      : NativeOp({x}, sums), kernel_(kernel), stride_(stride) {}
  std::string describe() const override { return "sums of rows"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    const i64 count = x.w * x.c;
    const auto all = [&](i64 row) {
      return reinterpret_cast<i32*>(y.origin(frame.arena) + row * y.row());
    };
    // Added to and subtracted from the running sums by each row.
    for (i64 row = begin; row < end; ++row) {
      i32* const to = all(row);
      const bool whole = row == begin || stride_ >= kernel_;
      if (whole) {
        std::fill(to, to + count, 0);
      } else {
        std::copy(all(row - 1), all(row - 1) + count, to);
      }
      const i64 first = row * stride_, added = whole ? kernel_ : stride_;
      for (i64 i = 0; i < added; ++i) {
        const u8* const from = x.origin(frame.arena) + (first + kernel_ - 1 - i) * x.row();
        for (i64 j = 0; j < count; ++j) to[j] += from[j];
      }
      for (i64 i = 1; !whole && i <= stride_; ++i) {
        const u8* const from = x.origin(frame.arena) + (first - i) * x.row();
        for (i64 j = 0; j < count; ++j) to[j] -= from[j];
      }
    }
  }

 private:
  i64 kernel_, stride_;
};

class MeanOfColumns final : public NativeOp {
 public:
  MeanOfColumns(const Value* sums, const Value* y, i64 kernel, i64 stride, Scalars scalars)
      : NativeOp({sums}, y), kernel_(kernel), stride_(stride), scalars_(scalars) {}
  std::string describe() const override { return "mean of columns"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const i32* const from = reinterpret_cast<const i32*>(x.origin(frame.arena) + row * x.row());
      u8* const to = y.origin(frame.arena) + row * y.row();
      for (i64 c = 0; c < y.c; c += kChannels)
        channels(from + c, std::min(kChannels, y.c - c), to + c);
    }
  }

 private:
  static constexpr i64 kChannels = 64;

  void channels(const i32* sums_of_rows, i64 count, u8* to) const {
    const Value& y = *writes();
    const Scalars s = scalars_;
    i32 sums[kChannels] = {};
    for (i64 column = 0; column < y.w; ++column, to += y.c) {
      const bool whole = column == 0 || stride_ >= kernel_;
      if (whole) std::fill(sums, sums + kChannels, 0);
      const i64 first = column * stride_, added = whole ? kernel_ : stride_;
      for (i64 i = 0; i < added; ++i) {
        const i32* const from = sums_of_rows + (first + kernel_ - 1 - i) * y.c;
        for (i64 c = 0; c < count; ++c) sums[c] += from[c];
      }
      for (i64 i = 1; !whole && i <= stride_; ++i) {
        const i32* const from = sums_of_rows + (first - i) * y.c;
        for (i64 c = 0; c < count; ++c) sums[c] -= from[c];
      }
      for (i64 c = 0; c < count; ++c) {
        to[c] = clamp_byte(i64{sums[c]} * s.multiplier + s.offset, s);
      }
    }
  }

  i64 kernel_, stride_;
  Scalars scalars_;
};

class Add final : public NativeOp {
 public:
  Add(const Value* a, const Value* b, const Value* y, Scalars scalars)
      : NativeOp({a, b}, y), scalars_(scalars) {}
  std::string describe() const override { return "add"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &a = *reads()[0], &b = *reads()[1], &y = *writes();
    const Scalars s = scalars_;
    const i64 count = y.w * y.c;
    for (i64 row = begin; row < end; ++row) {
      const u8* const p = a.origin(frame.arena) + row * a.row();
      const u8* const q = b.origin(frame.arena) + row * b.row();
      u8* const to = y.origin(frame.arena) + row * y.row();
      for (i64 i = 0; i < count; ++i) {
        to[i] = clamp_byte(i64{p[i]} * s.multiplier + i64{q[i]} * s.multiplier_b + s.offset, s);
      }
    }
  }

 private:
  Scalars scalars_;
};

class Lut final : public NativeOp {
 public:
  Lut(const Value* x, const Value* y, std::vector<u8> table)
      : NativeOp({x}, y), table_(std::move(table)) {}
  std::string describe() const override { return "lut"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const u8* from = x.origin(frame.arena) + row * x.row();
      u8* to = y.origin(frame.arena) + row * y.row();
      const u8* const table = table_.data();
      for (i64 left = y.w, channels = y.c; left > 0; --left, from += channels, to += channels) {
        for (i64 c = 0; c < channels; ++c) to[c] = table[c * 256 + from[c]];
      }
    }
  }

 private:
  std::vector<u8> table_;
};

class Pad final : public NativeOp {
 public:
  Pad(const Value* x, const Value* y, i64 left, i64 top)
      : NativeOp({x}, y), left_(left), top_(top) {}
  std::string describe() const override { return "pad"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      u8* const to = y.origin(frame.arena) + row * y.row();
      std::memset(to, y.zero, static_cast<std::size_t>(y.w * y.c));
      if (row < top_ || row >= top_ + x.h) continue;
      std::memcpy(to + left_ * y.c, x.origin(frame.arena) + (row - top_) * x.row(),
                  static_cast<std::size_t>(x.w * x.c));
    }
  }

 private:
  i64 left_, top_;
};

class Repeat final : public NativeOp {
 public:
  Repeat(const Value* x, const Value* y, i64 factor) : NativeOp({x}, y), factor_(factor) {}
  std::string describe() const override { return "repeat"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value &x = *reads()[0], &y = *writes();
    for (i64 row = begin; row < end; ++row) {
      const u8* const from = x.origin(frame.arena) + row / factor_ * x.row();
      u8* const to = y.origin(frame.arena) + row * y.row();
      for (i64 column = 0; column < y.w; ++column) {
        std::memcpy(to + column * y.c, from + column / factor_ * x.c,
                    static_cast<std::size_t>(y.c));
      }
    }
  }

 private:
  i64 factor_;
};

class Concat final : public NativeOp {
 public:
  Concat(std::vector<const Value*> xs, const Value* y, std::vector<i32> places)
      : NativeOp(std::move(xs), y), places_(std::move(places)) {}
  std::string describe() const override { return "concat"; }

 protected:
  void rows(const Frame& frame, i64 begin, i64 end) const override {
    const Value& y = *writes();
    const i32* places = places_.data();
    for (const Value* x : reads()) {
      for (i64 row = begin; row < end; ++row) {
        const u8* from = x->origin(frame.arena) + row * x->row();
        u8* to = y.origin(frame.arena) + row * y.row();
        const i64 channels = x->c, all = y.c;
        for (i64 left = y.w; left > 0; --left, from += channels, to += all) {
#pragma GCC unroll 8
          for (i64 c = 0; c < channels; ++c) to[places[c]] = from[c];
        }
      }
      places += x->c;
    }
  }

 private:
  std::vector<i32> places_;
};

// The layer that ends the network. A task has one pixel and so its own filters.
class Linear final : public NativeOp {
 public:
  Linear(const Value* x, const Value* sums, std::unique_ptr<PackedLayer> layer,
         std::vector<float> scale, std::vector<float> bias)
      : NativeOp({x}, sums),
        layer_(std::move(layer)),
        scale_(std::move(scale)),
        bias_(std::move(bias)) {}
  std::string describe() const override { return std::string("linear: ") + layer_->name(); }
  void prepare() override { layer_->set_row(reads()[0]->row()); }
  PackedLayer* layer() const override { return layer_.get(); }
  i64 tasks(int) const override { return layer_->tasks(1); }

 protected:
  void work(const Frame& frame, i64 task, i64 tasks) const override {
    Image image{};
    image.x = first_window(*reads()[0], {0, 0}, frame.arena);
    image.sums = reinterpret_cast<i32*>(writes()->origin(frame.arena));
    layer_->run(image, task, tasks);
    const auto [begin, end] = layer_->filters(task);
    for (i64 o = begin; o < end; ++o) {
      const auto at = static_cast<std::size_t>(o);
      frame.output[o] = static_cast<float>(image.sums[o]) * scale_[at] + bias_[at];
    }
  }

 private:
  std::unique_ptr<PackedLayer> layer_;
  std::vector<float> scale_, bias_;
};

}  // namespace

i64 NativeOp::tasks(int team) const {
  const i64 shares = team == 1 ? 1 : kTasksPerThread * team;
  return std::min(writes_->h, std::max(shares, writes_->bytes() / kTaskBytes));
}

void NativeOp::run(const Frame& frame, i64 task, i64 tasks) const {
  if (task == 0) fill_border(*writes_, frame.arena);
  work(frame, task, tasks);
}

void NativeOp::work(const Frame& frame, i64 task, i64 tasks) const {
  rows(frame, task * writes_->h / tasks, (task + 1) * writes_->h / tasks);
}

NativeOpPointer make_input(const Value* y, std::vector<u8> table) {
  return std::make_unique<Input>(y, std::move(table));
}

NativeOpPointer make_window(const char* op, const Value* x, const Value* y, const Value* residual,
                            std::unique_ptr<PackedLayer> layer) {
  return std::make_unique<WindowOp>(op, x, y, residual, std::move(layer));
}

NativeOpPointer make_max_pool(const Value* x, const Value* y, Pair kernel, Pair stride,
                              Pair padding, std::vector<u8> minimum) {
  return std::make_unique<MaxPool>(x, y, kernel, stride, padding, std::move(minimum));
}

NativeOpPointer make_larger(const Value* x, const Value* y, Pair distance, Pair stride) {
  return std::make_unique<Larger>(x, y, distance, stride);
}

NativeOpPointer make_sums_of_rows(const Value* x, const Value* sums, i64 kernel, i64 stride) {
  return std::make_unique<SumsOfRows>(x, sums, kernel, stride);
}

NativeOpPointer make_mean_of_columns(const Value* sums, const Value* y, i64 kernel, i64 stride,
                                     Scalars scalars) {
  return std::make_unique<MeanOfColumns>(sums, y, kernel, stride, scalars);
}

NativeOpPointer make_mean(const Value* x, const Value* y, Pair kernel, Pair stride,
                          Scalars scalars) {
  return std::make_unique<Mean>(x, y, kernel, stride, scalars);
}

NativeOpPointer make_add(const Value* a, const Value* b, const Value* y, Scalars scalars) {
  return std::make_unique<Add>(a, b, y, scalars);
}

NativeOpPointer make_lut(const Value* x, const Value* y, std::vector<u8> table) {
  return std::make_unique<Lut>(x, y, std::move(table));
}

NativeOpPointer make_pad(const Value* x, const Value* y, i64 left, i64 top) {
  return std::make_unique<Pad>(x, y, left, top);
}

NativeOpPointer make_repeat(const Value* x, const Value* y, i64 factor) {
  return std::make_unique<Repeat>(x, y, factor);
}

NativeOpPointer make_concat(std::vector<const Value*> xs, const Value* y, std::vector<i32> places) {
  return std::make_unique<Concat>(std::move(xs), y, std::move(places));
}

NativeOpPointer make_linear(const Value* x, const Value* sums, std::unique_ptr<PackedLayer> layer,
                            std::vector<float> scale, std::vector<float> bias) {
  return std::make_unique<Linear>(x, sums, std::move(layer), std::move(scale), std::move(bias));
}

}  // namespace mulfree::nodes

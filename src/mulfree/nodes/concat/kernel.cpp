// Channels of several values in any order.
#include "nodes/csrc/builder.h"

namespace mulfree::nodes {
namespace {

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

void append(Builder& node, const Fields& fields) {
  const Value& first = node.read();
  std::vector<const Value*> xs;
  i64 channels = 0;
  for (std::size_t i = 0; i < node.reads(); ++i) {
    xs.push_back(&node.read(i, node.read(i).c, first.h, first.w));
    channels += xs.back()->c;
  }
  const Value& y = node.write(channels, first.h, first.w);
  const auto order = fields.array<i32>("order", {channels});
  // Of each stacked channel its channel in y.
  std::vector<i32> places(static_cast<std::size_t>(channels), -1);
  for (i64 c = 0; c < channels; ++c) {
    const i64 stacked = order.data[c];
    if (stacked < 0 || stacked >= channels || places[static_cast<std::size_t>(stacked)] != -1) {
      fail("concat", "order", "be a permutation", std::to_string(stacked));
    }
    places[static_cast<std::size_t>(stacked)] = static_cast<i32>(c);
  }
  node.append(std::make_unique<Concat>(std::move(xs), &y, std::move(places)));
}

const NodeKernel kernel("concat", append);

}  // namespace
}  // namespace mulfree::nodes

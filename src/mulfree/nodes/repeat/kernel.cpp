// Nearest-neighbour upsampling.
#include <cstring>

#include "nodes/csrc/builder.h"

namespace mulfree::nodes {
namespace {

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

void append(Builder& node, const Fields& fields) {
  const Value& x = node.read();
  const i64 factor = fields.number("factor", 1, kMaxBytes);
  const Value& y = node.write(x.c, x.h * factor, x.w * factor);
  node.append(std::make_unique<Repeat>(&x, &y, factor));
}

const NodeKernel kernel("repeat", append);

}  // namespace
}  // namespace mulfree::nodes

// Sum of two values.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/epilogue.h"

namespace mulfree::nodes {
namespace {

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
        to[i] = clamp_byte(i64{p[i]} * s.multiplier + i64{q[i]} * s.other_multiplier + s.offset, s);
      }
    }
  }

 private:
  Scalars scalars_;
};

void append(Builder& node, const Fields& fields) {
  const Value& a = node.read();
  const Value& b = node.read(1, a.c, a.h, a.w);
  const Value& y = node.write(a.c, a.h, a.w);
  const Scalars scalars(fields, fields.number32("other_multiplier"));
  node.append(std::make_unique<Add>(&a, &b, &y, scalars));
}

const NodeKernel kernel("add", append);

}  // namespace
}  // namespace mulfree::nodes

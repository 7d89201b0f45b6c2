#include "input.h"

namespace mulfree::runtime {

using namespace nodes;

namespace {

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

}  // namespace

NativeOpPointer make_input(const Value* y, std::vector<u8> table) {
  return std::make_unique<Input>(y, std::move(table));
}

}  // namespace mulfree::runtime

#include "input_op.h"

namespace mulfree::runtime {

using namespace nodes;

NativeOp input_op(const Value* y, std::vector<u8> tables) {
  return rows_op({}, y, [tables = std::move(tables)](const Rows& rows) {
    const Value& y = rows.y;
    const i64 width = y.w, channels = y.c;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      for (i64 c = 0; c < channels; ++c) {
        u8* const to = rows.to(row) + c;
        const u8* const from = rows.frame.input + (c * y.h + row) * width;
        if (rows.frame.quantised) {
#pragma GCC unroll 8
          for (i64 x = 0; x < width; ++x) to[x * channels] = from[x];
        } else {
          const u8* const table = tables.data() + c * 256;
#pragma GCC unroll 8
          for (i64 x = 0; x < width; ++x) to[x * channels] = table[from[x]];
        }
      }
    }
  });
}

}  // namespace mulfree::runtime

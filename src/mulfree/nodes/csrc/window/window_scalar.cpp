// Integer kernels for every machine: plain loops over the lanes.
#include "kernel_set.h"

namespace mulfree::nodes {
namespace {

struct Lanes {
  i32 v[8];
};

struct ScalarTap : NoExtras {
  static constexpr i64 kLanes = 8, kGroup = 1, kStepBytes = 8;
  static constexpr int kBlocks = 1, kSums = 2;
  static constexpr bool kMasksTail = false;
  using Sum = Lanes;
  using X = i32;
  using W = const u8*;
  static Sum zero() { return {}; }
  static X broadcast(const u8* x) { return *x; }
  static X broadcast_first(const u8* x, i64) { return *x; }
  static W load(const u8* weights) { return weights; }
  static void place(u8* step, i64 lane, i64, int weight) { step[lane] = static_cast<u8>(weight); }
  static void store(i32* sums, const Sum& sum, Extra, const i32*) {
    for (i64 i = 0; i < kLanes; ++i) sums[i] = sum.v[i];
  }
};

struct Scalar {
  struct Adder : ScalarTap {
    static constexpr const char* kName = "sad scalar";
    static Sum tap(Sum sum, X x, W w) {
      for (i64 i = 0; i < kLanes; ++i) sum.v[i] -= x > w[i] ? x - w[i] : w[i] - x;
      return sum;
    }
  };
  using NarrowAdder = Adder;
  static constexpr i64 kNarrow = 0;

  struct Conv : ScalarTap {
    static constexpr const char* kName = "dot scalar";
    static Sum tap(Sum sum, X x, W w) {
      for (i64 i = 0; i < kLanes; ++i) sum.v[i] += x * static_cast<i8>(w[i]);
      return sum;
    }
  };
  using ShortConv = Conv;
  using DepthwiseAdder = PlainDepthwiseAdder;
  using DepthwiseConv = PlainDepthwiseConv;
  // Number of filters done; the caller does the rest.
  template <bool kResidual>
  static i64 requantise(const Epilogue&, i64, i64, const Results&) {
    return 0;
  }
};

}  // namespace

const Kernels kernels_scalar = make_kernels<Scalar>();

}  // namespace mulfree::nodes

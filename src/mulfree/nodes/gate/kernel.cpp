// Product of a map and one number for each channel.
#include "nodes/csrc/builder.h"
#include "nodes/csrc/epilogue.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace mulfree::nodes {

namespace {

// Bits of the factor of a channel below which a product of 16-bit numbers takes it in two parts.
constexpr int kPart = 7;
// Most magnitude of a factor whose upper part has 16 bits.
constexpr i64 kMostFactor = (i64{1} << (15 + kPart)) - 1;

// Constants of a channel: v = q * factor + offset.
template <class T>
struct Channels {
  T* factor;
  T* offset;
  T* parts;  // of the factor: the lower and the upper one, in 16 bits each

  Channels(const Value& value, u8* arena, i64 channels)
      : factor(reinterpret_cast<T*>(value.origin(arena))),
        offset(factor + channels),
        parts(offset + channels) {}

  static i64 bytes(i64 channels) { return 3 * static_cast<i64>(sizeof(T)) * channels; }
};

// The first channels of a pixel; returns their number.
i64 vectors(const u8*, const Channels<i64>&, const Scalars&, i64, u8*) { return 0; }

i64 vectors(const u8* from, const Channels<i32>& of, const Scalars& s, i64 channels, u8* to) {
  i64 c = 0;
#ifdef __SSE2__
  const __m128i shift = _mm_cvtsi32_si128(s.shift);
  const __m128i low = _mm_set1_epi8(static_cast<char>(s.low));
  const __m128i high = _mm_set1_epi8(static_cast<char>(s.high));
  const auto load = [](const i32* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  };
  const auto four = [&](__m128i pairs, i64 c) {
    const __m128i product = _mm_madd_epi16(pairs, load(of.parts + c));
    return _mm_sra_epi32(_mm_add_epi32(product, load(of.offset + c)), shift);
  };
  for (; c + 8 <= channels; c += 8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + c));
    const __m128i q = _mm_unpacklo_epi8(bytes, _mm_setzero_si128());
    const __m128i raised = _mm_slli_epi16(q, kPart);
    const __m128i words = _mm_packs_epi32(four(_mm_unpacklo_epi16(q, raised), c),
                                          four(_mm_unpackhi_epi16(q, raised), c + 4));
    const __m128i y = _mm_min_epu8(_mm_max_epu8(_mm_packus_epi16(words, words), low), high);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + c), y);
  }
#endif
  return c;
}

// T holds every sum.
template <class T>
void append_gate(Builder& node, const Value* x, const Value* gate, const Value* y,
                 const Scalars& scalars) {
  const Value* const constants = node.scratch(Channels<T>::bytes(x->c), 1, 1);
  node.rows({gate}, constants, [scalars, x](const Rows& rows) {
    const u8* const q = rows.from(0);
    const i64 channels = rows.x.c;
    const Channels<T> of(rows.y, rows.frame.arena, channels);
    const T zero = rows.x.zero, multiplier = scalars.multiplier;
    const T offset = static_cast<T>(scalars.offset);
    for (i64 c = 0; c < channels; ++c) {
      const T factor = (T{q[c]} - zero) * multiplier;
      of.factor[c] = factor;
      of.offset[c] = offset - factor * x->zero;
      constexpr T kLower = (1 << kPart) - 1;
      of.parts[c] = (factor & kLower) | (factor >> kPart) * (1 << 16);
    }
  });
  node.rows({x, constants}, y, [scalars, constants](const Rows& rows) {
    const i64 width = rows.y.w, channels = rows.y.c;
    const Channels<T> of(*constants, rows.frame.arena, channels);
    const T low = scalars.low, high = scalars.high;
    const int shift = scalars.shift;
    for (i64 row = rows.begin; row < rows.end; ++row) {
      const u8* from = rows.from(row);
      u8* to = rows.to(row);
      for (i64 left = width; left > 0; --left, from += channels, to += channels) {
        for (i64 c = vectors(from, of, scalars, channels, to); c < channels; ++c) {
          const T v = (from[c] * of.factor[c] + of.offset[c]) >> shift;
          to[c] = static_cast<u8>(v < low ? low : v > high ? high : v);
        }
      }
    }
  });
}

}  // namespace

MULFREE_NODE(gate) {
  const Value& x = node.read();
  const Value& gate = node.read(1, x.c, 1, 1);
  const Value& y = node.write(x.c, x.h, x.w);
  const Scalars scalars(fields);
  const i64 factor = 255 * std::abs(i64{scalars.multiplier}), offset = std::abs(scalars.offset);
  constexpr i64 kMost = std::numeric_limits<i32>::max();
  const bool narrow = scalars.shift < 32 && factor <= kMostFactor && offset <= kMost - 255 * factor;
  if (narrow) {
    append_gate<i32>(node, &x, &gate, &y, scalars);
    node.set_name("32 bits");
  } else {
    append_gate<i64>(node, &x, &gate, &y, scalars);
  }
}

}  // namespace mulfree::nodes

// Element codecs of the quantized formats: what each code stands for. The values
// are those of src/formats/number_format.cpp; the tests compare every code.
//
// A codec has
//   kBits                 bits of a code
//   kFactor               value = kFactor * element, so that elements may be
//                         whatever is cheapest to make in half precision
//   element(code, p)      the value as float
//   pair(v, p)            two elements as half2, codes in the low byte of each
//                         half of v
//   kRaise                pairs of a matrix unit that flushes subnormal halves are
//                         multiplied by 2^kRaise (subnormals.h), where that makes
//                         all of them normal
//   kSplits               none does: subnormals are multiplied apart
// and, where it has 4 bits, decode_word for the kernel layout,
// where p are the parameters that a kernel was given: p.offset is subtracted from
// integer codes.
#pragma once
#include <metal_stdlib>

#include "unroll.h"

namespace codecs {

using namespace metal;

// E2M1 (OCP MX): sign, two bits of exponent, one of mantissa. Placed at the same
// bits of a half, exponents and subnormals are those of half times 2^-14.
struct E2m1 {
  static constant constexpr int kBits = 4;
  static constant constexpr float kFactor = 16384.0f;
  static constant constexpr int kRaise = 1;
  static constant constexpr bool kSplits = false;
  template <typename P>
  static METAL_FUNC half2 pair(uint v, constant P&) {
    return as_type<half2>(((v & 0x00080008u) << 12) | ((v & 0x00070007u) << 9));
  }
  template <typename P>
  static METAL_FUNC float element(uint code, constant P& p) {
    return float(pair(code, p).x) * kFactor;
  }
};

// Integers of up to 8 bits, less an offset. A half of 1024 + code is exact.
template <int kCodeBits>
struct Integer {
  static constant constexpr int kBits = kCodeBits;
  static constant constexpr float kFactor = 1.0f;
  static constant constexpr int kRaise = 0;
  static constant constexpr bool kSplits = false;
  template <typename P>
  static METAL_FUNC half2 pair(uint v, constant P& p) {
    return as_type<half2>(v | 0x64006400u) - half2(1024.0h + half(p.offset));
  }
  template <typename P>
  static METAL_FUNC float element(uint code, constant P& p) {
    return float(code) - p.offset;
  }
};

// E4M3 (fn) at the same bits of a half: exponents less 8.
struct E4m3 {
  static constant constexpr int kBits = 8;
  static constant constexpr float kFactor = 256.0f;
  static constant constexpr int kRaise = 3;
  static constant constexpr bool kSplits = false;
  template <typename P>
  static METAL_FUNC half2 pair(uint v, constant P&) {
    return as_type<half2>(((v & 0x00800080u) << 8) | ((v & 0x007F007Fu) << 7));
  }
  template <typename P>
  static METAL_FUNC float element(uint code, constant P& p) {
    if ((code & 0x7Fu) == 0x7Fu) return as_type<float>(0x7FC00000u | (code & 0x80u) << 24);
    return float(pair(code, p).x) * kFactor;
  }
};

// E5M2 is the upper half of a half, with all of its exponents.
struct E5m2 {
  static constant constexpr int kBits = 8;
  static constant constexpr float kFactor = 1.0f;
  static constant constexpr int kRaise = 0;
  static constant constexpr bool kSplits = true;
  template <typename P>
  static METAL_FUNC half2 pair(uint v, constant P&) {
    return as_type<half2>(v << 8);
  }
  template <typename P>
  static METAL_FUNC float element(uint code, constant P&) {
    return float(as_type<half2>(code << 8).x);
  }
};

// Levels by table: NormalFloat, and the integers of IQ4_NL.
constant constexpr float kNf4[16] = {-1.0f,           -0.69619280563f, -0.52507295945f, -0.39491742592f,
                                     -0.28444130892f, -0.18477340280f, -0.09104997599f, 0.0f,
                                     0.07958031496f,  0.16093014438f,  0.24611225135f,  0.33791513671f,
                                     0.44070973186f,  0.56261688797f,  0.72295664416f,  1.0f};
constant constexpr float kNf3[8] = {-1.0f,          -0.53502270849f, -0.24693143181f, 0.0f,
                                    0.18333748034f, 0.38199395432f,  0.62298574171f,  1.0f};
constant constexpr float kNf2[4] = {-1.0f, 0.0f, 0.43581816458f, 1.0f};
constant constexpr float kIq4Nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

#define MM_LEVELS(Name, bits, table)                              \
  struct Name {                                                   \
    static constant constexpr int kBits = bits;                   \
    static constant constexpr float kFactor = 1.0f;               \
    static constant constexpr int kRaise = 0;                     \
    static constant constexpr bool kSplits = false;               \
    template <typename P>                                         \
    static METAL_FUNC half2 pair(uint v, constant P&) {           \
      return half2(half(table[v & 0xFFu]), half(table[v >> 16])); \
    }                                                             \
    template <typename P>                                         \
    static METAL_FUNC float element(uint code, constant P&) {     \
      return table[code];                                         \
    }                                                             \
  };
MM_LEVELS(Nf4, 4, kNf4)
MM_LEVELS(Nf3, 3, kNf3)
MM_LEVELS(Nf2, 2, kNf2)
MM_LEVELS(Iq4Nl, 4, kIq4Nl)
#undef MM_LEVELS

// Calls M(name, Codec) for every codec, which is how kernels are made for all of them: name is in their host names,
// and in src/formats/number_format.cpp.
#define MM_FOR_EACH_4_BIT_CODEC(M) \
  M(e2m1, codecs::E2m1)            \
  M(int4, codecs::Integer<4>)      \
  M(nf4, codecs::Nf4)              \
  M(iq4nl, codecs::Iq4Nl)
#define MM_FOR_EACH_SMALLER_CODEC(M) \
  M(int2, codecs::Integer<2>)        \
  M(int3, codecs::Integer<3>)        \
  M(nf2, codecs::Nf2)                \
  M(nf3, codecs::Nf3)
#define MM_FOR_EACH_LARGER_INTEGER(M) \
  M(int5, codecs::Integer<5>)         \
  M(int6, codecs::Integer<6>)         \
  M(int8, codecs::Integer<8>)
#define MM_FOR_EACH_FP8_CODEC(M) \
  M(e4m3, codecs::E4m3)          \
  M(e5m2, codecs::E5m2)
#define MM_FOR_EACH_CODEC(M)    \
  MM_FOR_EACH_4_BIT_CODEC(M)    \
  MM_FOR_EACH_SMALLER_CODEC(M)  \
  MM_FOR_EACH_LARGER_INTEGER(M) \
  MM_FOR_EACH_FP8_CODEC(M)

// ---- a word of the kernel layout: four pairs of 4-bit codes

template <typename Codec, typename P>
METAL_FUNC void decode_word(thread half2* out, uint w, constant P& p, Codec) {
  MM_UNROLL for (uint q = 0; q < 4; ++q) out[q] = Codec::pair(w >> 4 * q & 0x000F000Fu, p);
}
// Magnitudes of pairs 0 to 3 at bits 9, 6, 3, 0 of each half, signs at 15, 12, 14,
// 13: two of them shift into place together with their magnitudes.
template <typename P>
METAL_FUNC void decode_word(thread half2* out, uint w, constant P&, E2m1) {
  out[0] = as_type<half2>(w & 0x8E008E00u);
  out[1] = as_type<half2>(w << 3 & 0x8E008E00u);
  out[2] = as_type<half2>((w << 6 & 0x0E000E00u) | (w << 1 & 0x80008000u));
  out[3] = as_type<half2>((w << 9 & 0x0E000E00u) | (w << 2 & 0x80008000u));
}
// Element e of pair q, in float.
template <typename Codec, typename P>
METAL_FUNC float word_element(uint w, uint q, uint e, constant P& p, Codec) {
  return Codec::element(w >> (4 * q + 16 * e) & 0xFu, p);
}
template <typename P>
METAL_FUNC float word_element(uint w, uint q, uint e, constant P& p, E2m1 codec) {
  half2 pairs[4];
  decode_word(pairs, w, p, codec);
  return float(e == 0 ? pairs[q].x : pairs[q].y) * E2m1::kFactor;
}
// Codes at bits 4 to 7 of a half of 1024 count 16 times.
template <typename P>
METAL_FUNC void decode_word(thread half2* out, uint w, constant P& p, Integer<4>) {
  const half2 low = half2(1024.0h + half(p.offset)), high = half2(-64.0h - half(p.offset));
  MM_UNROLL for (uint q = 0; q < 4; q += 2) {
    const uint v = w >> 4 * q;
    out[q] = as_type<half2>((v & 0x000F000Fu) | 0x64006400u) - low;
    out[q + 1] = fma(as_type<half2>((v & 0x00F000F0u) | 0x64006400u), half2(0.0625h), high);
  }
}

// ---- group scales

// As ScaleType in include/metal_marlin/format.h.
enum ScaleType : uint { kF16Scale, kBf16Scale, kF32Scale, kE8m0Scale, kE4m3Scale };

inline float bf16_value(ushort bits) {
  return as_type<float>(uint(bits) << 16);
}

// A float holds 2^-127, E8M0's least, only as a subnormal, which a GPU may flush.
inline float e8m0_value(uchar code) {
  return as_type<float>(code == 255 ? 0x7FC00000u : code == 0 ? 0x00400000u : uint(code) << 23);
}

inline float e4m3_value(uchar code) {
  const uint c = code;
  if ((c & 0x7Fu) == 0x7Fu) return as_type<float>(0x7FC00000u);
  return float(as_type<half>(ushort((c & 0x80u) << 8 | (c & 0x7Fu) << 7))) * 256.0f;
}

// Scale `at` of an array whose elements are of the type.
inline float load_scale(uint type, device const uchar* scales, ulong at) {
  switch (type) {
    case kF16Scale: return float(((device const half*)scales)[at]);
    case kBf16Scale: return bf16_value(((device const ushort*)scales)[at]);
    case kF32Scale: return ((device const float*)scales)[at];
    case kE8m0Scale: return e8m0_value(scales[at]);
    default: return e4m3_value(scales[at]);
  }
}

}  // namespace codecs

// Rows of keys and values as caches hold them: as numbers, or in 8 or 4 bits with an f16
// scale for each 32 elements. A quantized row is its codes, then its scales, padded to 4
// bytes. load() gives elements e to e + 3, e a multiple of 4, zeros past the row's end
// (with kWhole there are none: rows are of multiples of 4 and e lies in them);
// store() is called by a simdgroup for the 32 elements from `group` * 32 on, lane by lane.
#pragma once
#include <metal_stdlib>

#include "unroll.h"

using namespace metal;

template <typename T>
struct NumberRows {
  template <bool kWhole>
  static METAL_FUNC float4 load(device const uchar* rows, ulong row, uint width, uint e) {
    device const T* at = (device const T*)rows + row * width + e;
    if (kWhole) return float4(*(device const vec<T, 4>*)at);
    float4 out;
    MM_UNROLL for (uint i = 0; i < 4; ++i) out[i] = e + i < width ? float(at[i]) : 0.0f;
    return out;
  }
  static METAL_FUNC void store(device uchar* rows, ulong row, uint width, uint group, float v, uint lane) {
    const uint e = 32 * group + lane;
    if (e < width) ((device T*)rows)[row * width + e] = T(v);
  }
};

// The nearest of E2M1's magnitudes, ties to the even code; v at most 6.
METAL_FUNC uint e2m1_code(float v) {
  const float a = fabs(v);
  const uint code = (a > 0.25f ? 1 : 0) + (a >= 0.75f ? 1 : 0) + (a > 1.25f ? 1 : 0) + (a >= 1.75f ? 1 : 0) +
                    (a > 2.5f ? 1 : 0) + (a >= 3.5f ? 1 : 0) + (a > 5.0f ? 1 : 0);
  return code | (v < 0.0f ? 8u : 0u);
}
// The nearest of E4M3 (fn), ties to even; v at most 448.
METAL_FUNC uint e4m3_code(float v) {
  const float a = fabs(v);
  const uint sign = as_type<uint>(v) >> 24 & 0x80u;
  if (a < 0.015625f) return uint(rint(a * 512.0f)) | sign;
  const uint bits = as_type<uint>(a);
  const uint rounded = bits + 0x7FFFFu + (bits >> 20 & 1u);
  return ((rounded >> 20) - (120u << 3)) | sign;
}

// What codes stand for: kLargest is the largest magnitude, in units of the scale.
struct Int8Code {
  static constant constexpr uint kBits = 8;
  static constant constexpr float kLargest = 127.0f;
  static METAL_FUNC uint encode(float v) { return uint(int(rint(v))) & 0xFFu; }
  static METAL_FUNC float decode(uint code) { return float(int(code << 24) >> 24); }
};
struct Int4Code {
  static constant constexpr uint kBits = 4;
  static constant constexpr float kLargest = 7.0f;
  static METAL_FUNC uint encode(float v) { return uint(int(rint(v))) & 0xFu; }
  static METAL_FUNC float decode(uint code) { return float(int(code << 28) >> 28); }
};
struct Fp8Code {
  static constant constexpr uint kBits = 8;
  static constant constexpr float kLargest = 448.0f;
  static METAL_FUNC uint encode(float v) { return e4m3_code(v); }
  static METAL_FUNC float decode(uint code) {
    return float(as_type<half>(ushort((code & 0x80u) << 8 | (code & 0x7Fu) << 7))) * 256.0f;
  }
};
struct Fp4Code {
  static constant constexpr uint kBits = 4;
  static constant constexpr float kLargest = 6.0f;
  static METAL_FUNC uint encode(float v) { return e2m1_code(v); }
  static METAL_FUNC float decode(uint code) {
    return float(as_type<half>(ushort((code & 8u) << 12 | (code & 7u) << 9))) * 16384.0f;
  }
};

template <typename Code>
struct CodeRows {
  // As cache_row_bytes in src/backends/msl/attention.h.
  static METAL_FUNC uint scales_at(uint width) { return (width * Code::kBits + 31) / 32 * 4; }
  static METAL_FUNC uint row_bytes(uint width) { return (scales_at(width) + (width + 31) / 32 * 2 + 3) / 4 * 4; }

  template <bool kWhole>
  static METAL_FUNC float4 load(device const uchar* rows, ulong row, uint width, uint e) {
    if (!kWhole && e >= width) return float4(0.0f);
    device const uchar* at = rows + row * row_bytes(width);
    const float scale = float(*(device const half*)(at + scales_at(width) + e / 32 * 2));
    float4 out;
    if (Code::kBits == 8) {
      const uint codes = *(device const uint*)(at + e);
      MM_UNROLL for (uint i = 0; i < 4; ++i) out[i] = Code::decode(codes >> 8 * i & 0xFFu);
    } else {
      const uint codes = *(device const ushort*)(at + e / 2);
      MM_UNROLL for (uint i = 0; i < 4; ++i) out[i] = Code::decode(codes >> 4 * i & 0xFu);
    }
    MM_UNROLL for (uint i = 0; i < 4; ++i) if (!kWhole && e + i >= width) out[i] = 0.0f;
    return out * scale;
  }
  static METAL_FUNC void store(device uchar* rows, ulong row, uint width, uint group, float v, uint lane) {
    const uint e = 32 * group + lane;
    const float x = e < width ? v : 0.0f;
    const half scale = half(simd_max(fabs(x)) / Code::kLargest);
    const float inverse = scale > 0.0h ? 1.0f / float(scale) : 0.0f;
    const uint code = Code::encode(clamp(x * inverse, -Code::kLargest, Code::kLargest));
    const uint next = simd_shuffle_xor(code, ushort(1));
    device uchar* at = rows + row * row_bytes(width);
    if (lane == 0) *(device half*)(at + scales_at(width) + group * 2) = scale;
    // Codes past the end fill what is read with the last.
    const uint padded = (width + 3) / 4 * 4;
    if (Code::kBits == 8) {
      if (e < padded) at[e] = uchar(code);
    } else if (lane % 2 == 0 && e < padded) {
      at[e / 2] = uchar(code | next << 4);
    }
  }
};
typedef CodeRows<Int8Code> Int8Rows;
typedef CodeRows<Int4Code> Int4Rows;
typedef CodeRows<Fp8Code> Fp8Rows;
typedef CodeRows<Fp4Code> Fp4Rows;

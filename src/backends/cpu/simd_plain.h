// Vectors as arrays: plain C++, the reference for the others.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "backends/cpu/kernels.h"
#include "formats/small_floats.h"

// Where vectors are loops, unrolling what is around them makes nothing faster, and takes four times as long to compile.
#define MM_UNROLL(n)

namespace metal_marlin::cpu {
namespace {

struct F32 {
  float v[16];
};
struct I32 {
  std::int32_t v[16];
};
struct U8 {
  std::uint8_t v[64];
};
constexpr bool kUnsignedDot = false;
constexpr bool kBf16Dot = false;
inline F32 f_dot_bf16(F32 acc, U8, const std::uint16_t*) {
  return acc;
}
inline void f_store_bf16(std::uint16_t*, F32) {}

template <typename F>
inline F32 f_each(F f) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.v[i] = f(i);
  return out;
}
template <typename F>
inline I32 i_each(F f) {
  I32 out;
  for (int i = 0; i < 16; ++i) out.v[i] = f(i);
  return out;
}
template <typename F>
inline U8 u_each(F f) {
  U8 out;
  for (int i = 0; i < 64; ++i) out.v[i] = static_cast<std::uint8_t>(f(i));
  return out;
}

inline F32 f_set(float x) {
  return f_each([&](int) { return x; });
}
inline F32 f_load_part(const float* p, int n) {
  return f_each([&](int i) { return i < n ? p[i] : 0.0F; });
}
inline F32 f_load(const float* p) {
  return f_load_part(p, 16);
}
inline void f_store_part(float* p, F32 x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
inline void f_store(float* p, F32 x) {
  f_store_part(p, x, 16);
}
inline F32 f_add(F32 x, F32 y) {
  return f_each([&](int i) { return x.v[i] + y.v[i]; });
}
inline F32 f_sub(F32 x, F32 y) {
  return f_each([&](int i) { return x.v[i] - y.v[i]; });
}
inline F32 f_mul(F32 x, F32 y) {
  return f_each([&](int i) { return x.v[i] * y.v[i]; });
}
inline F32 f_div(F32 x, F32 y) {
  return f_each([&](int i) { return x.v[i] / y.v[i]; });
}
// Not fused: without hardware support std::fma is far too slow to run a model.
inline F32 f_fma(F32 x, F32 y, F32 z) {
  return f_each([&](int i) { return x.v[i] * y.v[i] + z.v[i]; });
}
inline F32 f_max(F32 x, F32 y) {
  return f_each([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
inline F32 f_min(F32 x, F32 y) {
  return f_each([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
inline F32 f_abs(F32 x) {
  return f_each([&](int i) { return std::fabs(x.v[i]); });
}
inline F32 f_round(F32 x) {
  return f_each([&](int i) { return std::nearbyint(x.v[i]); });
}
inline F32 f_scale2(F32 x, F32 n) {
  return f_each([&](int i) { return std::ldexp(x.v[i], static_cast<int>(n.v[i])); });
}
inline F32 f_zero_below(F32 v, F32 x, float low) {
  return f_each([&](int i) { return x.v[i] >= low ? v.v[i] : 0.0F; });
}
inline float f_first(F32 x) {
  return x.v[0];
}
inline float f_reduce_add(F32 x) {
  float sum = 0;
  for (const float v : x.v) sum += v;
  return sum;
}
inline float f_reduce_max(F32 x) {
  float top = x.v[0];
  for (const float v : x.v) top = v > top ? v : top;
  return top;
}
inline F32 f_load_f16(const std::uint16_t* p) {
  return f_each([&](int i) { return f16_to_f32(p[i]); });
}
inline void f_store_f16(std::uint16_t* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(x.v[i]);
}
inline F32 f_load_bf16(const std::uint16_t* p) {
  return f_each([&](int i) { return bf16_to_f32(p[i]); });
}
inline F32 f_load_u8(const std::uint8_t* p) {
  return f_each([&](int i) { return static_cast<float>(p[i]); });
}
inline F32 f_load_e8m0(const std::uint8_t* p) {
  return f_each([&](int i) { return e8m0_to_f32(p[i]); });
}
inline void f_store_i8(std::int8_t* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(x.v[i]);
}
inline F32 f_table(const float* levels, I32 index) {
  return f_each([&](int i) { return levels[index.v[i]]; });
}

inline I32 i_zero() {
  return i_each([](int) { return 0; });
}
inline I32 i_and(I32 x, int mask) {
  return i_each([&](int i) { return x.v[i] & mask; });
}
inline I32 i_or(I32 x, I32 y) {
  return i_each([&](int i) { return x.v[i] | y.v[i]; });
}
inline I32 i_shl(I32 x, int n) {
  return i_each([&](int i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(x.v[i]) << n); });
}
inline I32 i_shr(I32 x, int n) {
  return i_each([&](int i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(x.v[i]) >> n); });
}
inline F32 i_to_f(I32 x) {
  return f_each([&](int i) { return static_cast<float>(x.v[i]); });
}
inline F32 i_as_f(I32 x) {
  return f_each([&](int i) { return std::bit_cast<float>(x.v[i]); });
}
inline I32 i_dot4(I32 acc, U8 weights, const std::int8_t* x) {
  return i_each([&](int i) {
    std::int32_t sum = acc.v[i];
    for (int j = 0; j < 4; ++j) sum += static_cast<std::int8_t>(weights.v[4 * i + j]) * x[j];
    return sum;
  });
}

inline U8 u_load(const std::uint8_t* p) {
  return u_each([&](int i) { return p[i]; });
}
inline U8 u_repeat16(const std::uint8_t* p) {
  return u_each([&](int i) { return p[i % 16]; });
}
inline U8 u_and(U8 x, int mask) {
  return u_each([&](int i) { return x.v[i] & mask; });
}
inline U8 u_or(U8 x, U8 y) {
  return u_each([&](int i) { return x.v[i] | y.v[i]; });
}
inline U8 u_shl(U8 x, int n) {
  return u_each([&](int i) { return x.v[i] << n; });
}
inline U8 u_shr(U8 x, int n) {
  return u_each([&](int i) { return x.v[i] >> n; });
}
inline U8 u_table(U8 table, U8 index) {
  return u_each([&](int i) { return table.v[index.v[i]]; });
}
inline U8 u_flip_sign(U8 x) {
  return u_each([&](int i) { return x.v[i] ^ 0x80; });
}
inline I32 u_as_i(U8 x) {
  I32 out;
  std::memcpy(out.v, x.v, sizeof(out.v));
  return out;
}
inline U8 u_spread(U8 kept, int half, I32 pairs) {
  return u_each([&](int i) {
    const std::uint32_t source = kSpreadSources[8 * half + (pairs.v[i / 4] & 15)] >> (8 * (i % 4)) & 0xFF;
    return source == 0x80 ? std::uint8_t{0} : kept.v[i / 4 * 4 + static_cast<int>(source)];
  });
}

}  // namespace
}  // namespace metal_marlin::cpu

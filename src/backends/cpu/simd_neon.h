// Vectors for 64-bit Arm with the dot product extension: four 128-bit registers.
#include <arm_neon.h>

#include <cstdint>

#include "backends/cpu/kernels.h"

namespace metal_marlin::cpu {
namespace {

struct F32 {
  float32x4_t v[4];
};
struct I32 {
  int32x4_t v[4];
};
struct U8 {
  uint8x16_t v[4];
};
constexpr bool kUnsignedDot = false;
constexpr bool kBf16Dot = false;
inline F32 f_dot_bf16(F32 acc, U8, const std::uint16_t*) {
  return acc;
}
inline void f_store_bf16(std::uint16_t*, F32) {}

template <typename F>
inline F32 f_each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}
template <typename F>
inline I32 i_each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}
template <typename F>
inline U8 u_each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline F32 f_set(float x) {
  return f_each([&](int) { return vdupq_n_f32(x); });
}
inline F32 f_load(const float* p) {
  return f_each([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void f_store(float* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F32 f_load_part(const float* p, int n) {
  if (n >= 16) return f_load(p);
  float padded[16] = {};
  for (int i = 0; i < n; ++i) padded[i] = p[i];
  return f_load(padded);
}
inline void f_store_part(float* p, F32 x, int n) {
  if (n >= 16) return f_store(p, x);
  float padded[16];
  f_store(padded, x);
  for (int i = 0; i < n; ++i) p[i] = padded[i];
}
inline F32 f_add(F32 x, F32 y) {
  return f_each([&](int i) { return vaddq_f32(x.v[i], y.v[i]); });
}
inline F32 f_sub(F32 x, F32 y) {
  return f_each([&](int i) { return vsubq_f32(x.v[i], y.v[i]); });
}
inline F32 f_mul(F32 x, F32 y) {
  return f_each([&](int i) { return vmulq_f32(x.v[i], y.v[i]); });
}
inline F32 f_div(F32 x, F32 y) {
  return f_each([&](int i) { return vdivq_f32(x.v[i], y.v[i]); });
}
inline F32 f_fma(F32 x, F32 y, F32 z) {
  return f_each([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); });
}
inline F32 f_max(F32 x, F32 y) {
  return f_each([&](int i) { return vmaxq_f32(x.v[i], y.v[i]); });
}
inline F32 f_min(F32 x, F32 y) {
  return f_each([&](int i) { return vminq_f32(x.v[i], y.v[i]); });
}
inline F32 f_abs(F32 x) {
  return f_each([&](int i) { return vabsq_f32(x.v[i]); });
}
inline F32 f_round(F32 x) {
  return f_each([&](int i) { return vrndnq_f32(x.v[i]); });
}
inline F32 f_scale2(F32 x, F32 n) {
  return f_each([&](int i) {
    const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23);
    return vmulq_f32(x.v[i], vreinterpretq_f32_s32(exponent));
  });
}
inline F32 f_zero_below(F32 v, F32 x, float low) {
  return f_each([&](int i) {
    const uint32x4_t keep = vcgeq_f32(x.v[i], vdupq_n_f32(low));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v.v[i]), keep));
  });
}
inline float f_first(F32 x) {
  return vgetq_lane_f32(x.v[0], 0);
}
inline float f_reduce_add(F32 x) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3])));
}
inline float f_reduce_max(F32 x) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.v[0], x.v[1]), vmaxnmq_f32(x.v[2], x.v[3])));
}
inline F32 f_load_f16(const std::uint16_t* p) {
  return f_each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline void f_store_f16(std::uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
inline F32 f_load_bf16(const std::uint16_t* p) {
  return f_each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
inline I32 load_bytes(const std::uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes));
  const uint16x8_t high = vmovl_u8(vget_high_u8(bytes));
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
           vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}
inline F32 f_load_u8(const std::uint8_t* p) {
  const I32 bytes = load_bytes(p);
  return f_each([&](int i) { return vcvtq_f32_s32(bytes.v[i]); });
}
inline F32 f_load_e8m0(const std::uint8_t* p) {
  const I32 code = load_bytes(p);
  return f_each([&](int i) {
    // Code 0 is 2^-127, subnormal in f32.
    const uint32x4_t zero = vceqzq_s32(code.v[i]);
    return vreinterpretq_f32_s32(vbslq_s32(zero, vdupq_n_s32(0x00400000), vshlq_n_s32(code.v[i], 23)));
  });
}
inline void f_store_i8(std::int8_t* p, F32 x) {
  const int16x8_t low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.v[0])), vqmovn_s32(vcvtnq_s32_f32(x.v[1])));
  const int16x8_t high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.v[2])), vqmovn_s32(vcvtnq_s32_f32(x.v[3])));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
inline F32 f_table(const float* levels, I32 index) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(levels);
  const uint8x16x4_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
  return f_each([&](int i) {
    const int32x4_t spread = vmlaq_n_s32(vdupq_n_s32(0x03020100), index.v[i], 0x04040404);
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_s32(spread)));
  });
}

inline I32 i_zero() {
  return i_each([](int) { return vdupq_n_s32(0); });
}
inline I32 i_and(I32 x, int mask) {
  return i_each([&](int i) { return vandq_s32(x.v[i], vdupq_n_s32(mask)); });
}
inline I32 i_or(I32 x, I32 y) {
  return i_each([&](int i) { return vorrq_s32(x.v[i], y.v[i]); });
}
inline I32 i_shl(I32 x, int n) {
  return i_each([&](int i) { return vshlq_s32(x.v[i], vdupq_n_s32(n)); });
}
inline I32 i_shr(I32 x, int n) {
  return i_each(
      [&](int i) { return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x.v[i]), vdupq_n_s32(-n))); });
}
inline F32 i_to_f(I32 x) {
  return f_each([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline F32 i_as_f(I32 x) {
  return f_each([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}
inline I32 i_dot4(I32 acc, U8 weights, const std::int8_t* x) {
  std::int32_t word;
  __builtin_memcpy(&word, x, 4);
  const int8x16_t spread = vreinterpretq_s8_s32(vdupq_n_s32(word));
  return i_each([&](int i) { return vdotq_s32(acc.v[i], vreinterpretq_s8_u8(weights.v[i]), spread); });
}

inline U8 u_load(const std::uint8_t* p) {
  return u_each([&](int i) { return vld1q_u8(p + 16 * i); });
}
inline U8 u_repeat16(const std::uint8_t* p) {
  const uint8x16_t v = vld1q_u8(p);
  return {{v, v, v, v}};
}
inline U8 u_and(U8 x, int mask) {
  return u_each([&](int i) { return vandq_u8(x.v[i], vdupq_n_u8(static_cast<std::uint8_t>(mask))); });
}
inline U8 u_or(U8 x, U8 y) {
  return u_each([&](int i) { return vorrq_u8(x.v[i], y.v[i]); });
}
inline U8 u_shl(U8 x, int n) {
  return u_each([&](int i) { return vshlq_u8(x.v[i], vdupq_n_s8(static_cast<std::int8_t>(n))); });
}
inline U8 u_shr(U8 x, int n) {
  return u_each([&](int i) { return vshlq_u8(x.v[i], vdupq_n_s8(static_cast<std::int8_t>(-n))); });
}
inline U8 u_table(U8 table, U8 index) {
  return u_each([&](int i) { return vqtbl1q_u8(table.v[i], index.v[i]); });
}
inline U8 u_flip_sign(U8 x) {
  return u_each([&](int i) { return veorq_u8(x.v[i], vdupq_n_u8(0x80)); });
}
inline I32 u_as_i(U8 x) {
  return i_each([&](int i) { return vreinterpretq_s32_u8(x.v[i]); });
}
inline U8 u_spread(U8 kept, int half, I32 pairs) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(kSpreadSources + 8 * half);
  const uint8x16x2_t sources = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
  const uint32x4_t lanes = {0, 0x04040404, 0x08080808, 0x0C0C0C0C};
  return u_each([&](int i) {
    // Four times the number, and the byte of the word.
    const uint32x4_t at =
        vmlaq_n_u32(vdupq_n_u32(0x03020100), vandq_u32(vreinterpretq_u32_s32(pairs.v[i]), vdupq_n_u32(15)), 0x04040404);
    const uint8x16_t source = vqtbl2q_u8(sources, vreinterpretq_u8_u32(at));
    return vqtbl1q_u8(kept.v[i], vorrq_u8(source, vreinterpretq_u8_u32(lanes)));
  });
}

}  // namespace
}  // namespace metal_marlin::cpu

// What the definitions of AIR's functions are made of. They share nothing with the shim in
// tools/msl/include but the executor's primitives, so that each can be held against the other.
#pragma once

typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long u64;
typedef float f32;
typedef _Float16 f16;
typedef __bf16 bf16;

#define INLINE static inline __attribute__((always_inline))
// Calls that lanes make together.
#define TOGETHER __attribute__((convergent))
// A function under the name that AIR calls it by.
#define DEFINE(type, identifier, name, ...)   \
  type identifier(__VA_ARGS__) __asm__(name); \
  type identifier(__VA_ARGS__)

INLINE u16 bits_of_bf16(bf16 x) {
  return __builtin_bit_cast(u16, x);
}
INLINE u16 bits_of_f16(f16 x) {
  return __builtin_bit_cast(u16, x);
}
INLINE u32 bits_of_f32(f32 x) {
  return __builtin_bit_cast(u32, x);
}
INLINE u64 bits_of_double(double x) {
  return __builtin_bit_cast(u64, x);
}
INLINE f32 f32_of_bits(u32 x) {
  return __builtin_bit_cast(f32, x);
}
INLINE double double_of_bits(u64 x) {
  return __builtin_bit_cast(double, x);
}

INLINE f32 f32_of_bf16(bf16 x) {
  return f32_of_bits((u32)bits_of_bf16(x) << 16);
}
INLINE f32 f32_of_f16(f16 x) {
  return (f32)x;
}
INLINE f32 f32_of_f32(f32 x) {
  return x;
}

// To nearest, ties to even; a NaN stays one.
INLINE bf16 bf16_of_f32(f32 x) {
  const u32 bits = bits_of_f32(x);
  const u32 half = 0x7FFF + (bits >> 16 & 1);
  const u16 rounded = (u16)(x != x ? bits >> 16 | 0x40 : (bits + half) >> 16);
  return __builtin_bit_cast(bf16, rounded);
}

// To the odd neighbour where it is not exact: a narrower rounding afterwards is the only one.
INLINE f32 odd_f32_of_double(double x) {
  const f32 near = (f32)x;
  if (x != x || (double)near == x) return near;
  u32 bits = bits_of_f32(near);
  const double magnitude = __builtin_fabs(x), found = __builtin_fabs((double)near);
  if (found > magnitude) --bits;  // towards zero
  return f32_of_bits(bits | 1);
}
INLINE f32 f32_of_double(double x) {
  return (f32)x;
}
INLINE f16 f16_of_double(double x) {
  return (f16)odd_f32_of_double(x);
}
INLINE bf16 bf16_of_double(double x) {
  return bf16_of_f32(odd_f32_of_double(x));
}
INLINE f16 f16_of_f32(f32 x) {
  return (f16)x;
}
INLINE double double_of_f32(f32 x) {
  return (double)x;
}
INLINE double double_of_f16(f16 x) {
  return (double)(f32)x;
}
INLINE double double_of_bf16(bf16 x) {
  return (double)f32_of_bf16(x);
}

// Calls M(AIR's name of the type, type) for each.
#define FOR_FLOATS(M) M(f32) M(f16) M(bf16)
#define FOR_INTEGERS(M) M(s, i8) M(s, i16) M(s, i32) M(s, i64) M(u, i8) M(u, i16) M(u, i32) M(u, i64)

// C's type of AIR's s.i8 and so on.
#define s_i8 i8
#define s_i16 i16
#define s_i32 i32
#define s_i64 i64
#define u_i8 u8
#define u_i16 u16
#define u_i32 u32
#define u_i64 u64
#define TYPE_(sign, type) sign##_##type
#define TYPE(sign, type) TYPE_(sign, type)

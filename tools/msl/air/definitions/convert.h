// air.convert.*: to the nearest, ties to even; floats to integers towards zero, what lies beyond the
// range to its end, NaN to zero.
#pragma once
#include "base.h"

#define CONVERT(to_name, from_name, to, from) \
  DEFINE(to, convert_##to##_from_##from, "air.convert." to_name "." from_name, from x)

// ---- integers and truth values to floats. Every integer that f16 does not map to infinity is exact
// in f32; bf16 has f32's range and needs the odd rounding.
INLINE f32 odd_f32_of_u64(u64 x) {
  const int zeros = x == 0 ? 64 : __builtin_clzl(x);
  if (zeros >= 40) return (f32)x;
  const int drop = 40 - zeros;
  const u64 kept = x >> drop, lost = x & ((1ul << drop) - 1);
  return (f32)(kept | (lost != 0)) * f32_of_bits((u32)(127 + drop) << 23);
}
INLINE u64 magnitude(i64 x) {
  return x < 0 ? 0 - (u64)x : (u64)x;
}
INLINE f32 f32_of_signed(i64 x) {
  return (f32)x;
}
INLINE f32 f32_of_unsigned(u64 x) {
  return (f32)x;
}
INLINE f16 f16_of_signed(i64 x) {
  return (f16)(f32)x;
}
INLINE f16 f16_of_unsigned(u64 x) {
  return (f16)(f32)x;
}
INLINE bf16 bf16_of_signed(i64 x) {
  const f32 size = odd_f32_of_u64(magnitude(x));
  return bf16_of_f32(x < 0 ? -size : size);
}
INLINE bf16 bf16_of_unsigned(u64 x) {
  return bf16_of_f32(odd_f32_of_u64(x));
}

#define FROM_SIGNED(type)                    \
  CONVERT("f." #type, "s.i8", type, i8) {    \
    return type##_of_signed(x);              \
  }                                          \
  CONVERT("f." #type, "s.i16", type, i16) {  \
    return type##_of_signed(x);              \
  }                                          \
  CONVERT("f." #type, "s.i32", type, i32) {  \
    return type##_of_signed(x);              \
  }                                          \
  CONVERT("f." #type, "s.i64", type, i64) {  \
    return type##_of_signed(x);              \
  }                                          \
  CONVERT("f." #type, "u.i8", type, u8) {    \
    return type##_of_unsigned(x);            \
  }                                          \
  CONVERT("f." #type, "u.i16", type, u16) {  \
    return type##_of_unsigned(x);            \
  }                                          \
  CONVERT("f." #type, "u.i32", type, u32) {  \
    return type##_of_unsigned(x);            \
  }                                          \
  CONVERT("f." #type, "u.i64", type, u64) {  \
    return type##_of_unsigned(x);            \
  }                                          \
  CONVERT("f." #type, "u.i1", type, _Bool) { \
    return type##_of_unsigned(x);            \
  }
FOR_FLOATS(FROM_SIGNED)
#undef FROM_SIGNED

// ---- floats to integers, by way of f32, which holds f16 and bf16
#define LIMITS(type, least, beyond)                  \
  INLINE type type##_of_f32(f32 x) {                 \
    if (x != x) return 0;                            \
    if (x <= (f32)(least)) return (type)(least);     \
    if (x >= (beyond)) return (type) ~(type)(least); \
    return (type)x;                                  \
  }
LIMITS(i8, -0x80, 0x1p7f)
LIMITS(i16, -0x8000, 0x1p15f)
LIMITS(i32, -0x7FFFFFFF - 1, 0x1p31f)
LIMITS(i64, -0x7FFFFFFFFFFFFFFFl - 1, 0x1p63f)
LIMITS(u8, 0, 0x1p8f)
LIMITS(u16, 0, 0x1p16f)
LIMITS(u32, 0, 0x1p32f)
LIMITS(u64, 0, 0x1p64f)
#undef LIMITS

#define TO_INTEGERS(type)                    \
  CONVERT("s.i8", "f." #type, i8, type) {    \
    return i8_of_f32(f32_of_##type(x));      \
  }                                          \
  CONVERT("s.i16", "f." #type, i16, type) {  \
    return i16_of_f32(f32_of_##type(x));     \
  }                                          \
  CONVERT("s.i32", "f." #type, i32, type) {  \
    return i32_of_f32(f32_of_##type(x));     \
  }                                          \
  CONVERT("s.i64", "f." #type, i64, type) {  \
    return i64_of_f32(f32_of_##type(x));     \
  }                                          \
  CONVERT("u.i8", "f." #type, u8, type) {    \
    return u8_of_f32(f32_of_##type(x));      \
  }                                          \
  CONVERT("u.i16", "f." #type, u16, type) {  \
    return u16_of_f32(f32_of_##type(x));     \
  }                                          \
  CONVERT("u.i32", "f." #type, u32, type) {  \
    return u32_of_f32(f32_of_##type(x));     \
  }                                          \
  CONVERT("u.i64", "f." #type, u64, type) {  \
    return u64_of_f32(f32_of_##type(x));     \
  }                                          \
  CONVERT("u.i1", "f." #type, _Bool, type) { \
    return f32_of_##type(x) != 0;            \
  }
FOR_FLOATS(TO_INTEGERS)
#undef TO_INTEGERS

// ---- floats to floats
CONVERT("f.f32", "f.f32", f32, f32) {
  return x;
}
CONVERT("f.f32", "f.f16", f32, f16) {
  return (f32)x;
}
CONVERT("f.f32", "f.bf16", f32, bf16) {
  return f32_of_bf16(x);
}
CONVERT("f.f16", "f.f32", f16, f32) {
  return (f16)x;
}
CONVERT("f.f16", "f.f16", f16, f16) {
  return x;
}
CONVERT("f.f16", "f.bf16", f16, bf16) {
  return (f16)f32_of_bf16(x);
}
CONVERT("f.bf16", "f.f32", bf16, f32) {
  return bf16_of_f32(x);
}
CONVERT("f.bf16", "f.f16", bf16, f16) {
  return bf16_of_f32((f32)x);
}
CONVERT("f.bf16", "f.bf16", bf16, bf16) {
  return x;
}

// What kernels' own arithmetic of bf16 rounds with.
DEFINE(bf16, truncate_bf16, "msl.truncate.bf16", f32 x) {
  return bf16_of_f32(x);
}

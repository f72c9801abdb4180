// Integers: least, greatest, bits, saturation.
#pragma once
#include "base.h"

#define INTEGERS(sign, type)                                                                                           \
  typedef TYPE(sign, type) sign##type;                                                                                 \
  DEFINE(sign##type, min_##sign##type, "air.min." #sign "." #type, sign##type a, sign##type b) {                       \
    return a < b ? a : b;                                                                                              \
  }                                                                                                                    \
  DEFINE(sign##type, max_##sign##type, "air.max." #sign "." #type, sign##type a, sign##type b) {                       \
    return a > b ? a : b;                                                                                              \
  }                                                                                                                    \
  DEFINE(sign##type, min3_##sign##type, "air.min3." #sign "." #type, sign##type a, sign##type b, sign##type c) {       \
    return min_##sign##type(a, min_##sign##type(b, c));                                                                \
  }                                                                                                                    \
  DEFINE(sign##type, max3_##sign##type, "air.max3." #sign "." #type, sign##type a, sign##type b, sign##type c) {       \
    return max_##sign##type(a, max_##sign##type(b, c));                                                                \
  }                                                                                                                    \
  DEFINE(sign##type, median3_##sign##type, "air.median3." #sign "." #type, sign##type a, sign##type b, sign##type c) { \
    return max_##sign##type(min_##sign##type(a, b), min_##sign##type(max_##sign##type(a, b), c));                      \
  }                                                                                                                    \
  DEFINE(sign##type, clamp_##sign##type, "air.clamp." #sign "." #type, sign##type x, sign##type low,                   \
         sign##type high) {                                                                                            \
    return min_##sign##type(max_##sign##type(x, low), high);                                                           \
  }                                                                                                                    \
  DEFINE(sign##type, add_sat_##sign##type, "air.add_sat." #sign "." #type, sign##type a, sign##type b) {               \
    return __builtin_elementwise_add_sat(a, b);                                                                        \
  }                                                                                                                    \
  DEFINE(sign##type, sub_sat_##sign##type, "air.sub_sat." #sign "." #type, sign##type a, sign##type b) {               \
    return __builtin_elementwise_sub_sat(a, b);                                                                        \
  }                                                                                                                    \
  DEFINE(sign##type, hadd_##sign##type, "air.hadd." #sign "." #type, sign##type a, sign##type b) {                     \
    return (sign##type)((a & b) + ((a ^ b) >> 1));                                                                     \
  }                                                                                                                    \
  DEFINE(sign##type, rhadd_##sign##type, "air.rhadd." #sign "." #type, sign##type a, sign##type b) {                   \
    return (sign##type)((a | b) - ((a ^ b) >> 1));                                                                     \
  }
FOR_INTEGERS(INTEGERS)
#undef INTEGERS

#define ABSOLUTE(type, unsigned_type)                                                                          \
  DEFINE(type, abs_##type, "air.abs.s." #type, type x) {                                                       \
    return (type)(x < 0 ? 0 - (unsigned_type)x : (unsigned_type)x);                                            \
  }                                                                                                            \
  DEFINE(unsigned_type, abs_diff_s_##type, "air.abs_diff.s." #type, type a, type b) {                          \
    return (unsigned_type)(a > b ? (unsigned_type)a - (unsigned_type)b : (unsigned_type)b - (unsigned_type)a); \
  }                                                                                                            \
  DEFINE(unsigned_type, abs_diff_u_##type, "air.abs_diff.u." #type, unsigned_type a, unsigned_type b) {        \
    return (unsigned_type)(a > b ? a - b : b - a);                                                             \
  }
ABSOLUTE(i8, u8)
ABSOLUTE(i16, u16)
ABSOLUTE(i32, u32)
ABSOLUTE(i64, u64)
#undef ABSOLUTE

// The high half of a product, with and without a sum.
#define HIGH(sign, type, wide, bits)                                                                  \
  DEFINE(TYPE(sign, type), mul_hi_##sign##_##type, "air.mul_hi." #sign "." #type, TYPE(sign, type) a, \
         TYPE(sign, type) b) {                                                                        \
    return (TYPE(sign, type))((wide)a * (wide)b >> bits);                                             \
  }                                                                                                   \
  DEFINE(TYPE(sign, type), mad_hi_##sign##_##type, "air.mad_hi." #sign "." #type, TYPE(sign, type) a, \
         TYPE(sign, type) b, TYPE(sign, type) c) {                                                    \
    return (TYPE(sign, type))(((wide)a * (wide)b >> bits) + c);                                       \
  }
HIGH(s, i8, i32, 8)
HIGH(u, i8, u32, 8)
HIGH(s, i16, i32, 16)
HIGH(u, i16, u32, 16)
HIGH(s, i32, i64, 32)
HIGH(u, i32, u64, 32)
HIGH(s, i64, __int128, 64)
HIGH(u, i64, unsigned __int128, 64)
#undef HIGH

// The second argument of clz and ctz allows anything for zero; here zero has as many as there are bits.
#define BITS(type, bits)                                                                                    \
  DEFINE(u##type, clz_##type, "air.clz.i" #bits, u##type x, _Bool any) {                                    \
    return x == 0 ? bits : (u##type)(__builtin_clzl(x) - (64 - bits));                                      \
  }                                                                                                         \
  DEFINE(u##type, ctz_##type, "air.ctz.i" #bits, u##type x, _Bool any) {                                    \
    return x == 0 ? bits : (u##type)__builtin_ctzl(x);                                                      \
  }                                                                                                         \
  DEFINE(u##type, popcount_##type, "air.popcount.i" #bits, u##type x) {                                     \
    return (u##type)__builtin_popcountl(x);                                                                 \
  }                                                                                                         \
  DEFINE(u##type, reverse_##type, "air.reverse_bits.i" #bits, u##type x) {                                  \
    return __builtin_bitreverse##bits(x);                                                                   \
  }                                                                                                         \
  DEFINE(u##type, rotate_##type, "air.rotate.i" #bits, u##type x, u##type by) {                             \
    return __builtin_rotateleft##bits(x, by);                                                               \
  }                                                                                                         \
  DEFINE(u##type, extract_u_##type, "air.extract_bits.u.i" #bits, u##type x, u32 at, u32 count) {           \
    const u##type mask = count >= bits ? (u##type) ~0ul : (u##type)((1ul << count) - 1);                    \
    return count == 0 ? 0 : (u##type)((u##type)(x >> at) & mask);                                           \
  }                                                                                                         \
  DEFINE(s##type, extract_s_##type, "air.extract_bits.s.i" #bits, s##type x, u32 at, u32 count) {           \
    return count == 0 ? 0 : (s##type)((s##type)((u##type)x << (bits - at - count)) >> (bits - count));      \
  }                                                                                                         \
  DEFINE(u##type, insert_##type, "air.insert_bits.i" #bits, u##type base, u##type x, u32 at, u32 count) {   \
    const u##type mask = (u##type)((count >= bits ? (u##type) ~0ul : (u##type)((1ul << count) - 1)) << at); \
    return (u##type)((base & ~mask) | ((u##type)(x << at) & mask));                                         \
  }
BITS(i8, 8)
BITS(i16, 16)
BITS(i32, 32)
BITS(i64, 64)
#undef BITS

// Whether an argument is there, by a function constant.
DEFINE(u8, normal_predicate, "air.normalize_function_constant_predicate.i8", u8 x) {
  return x != 0;
}
DEFINE(_Bool, normal_predicate_1, "air.normalize_function_constant_predicate.i1", _Bool x) {
  return x;
}

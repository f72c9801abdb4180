// Functions of floats: computed in double and rounded once. fast_ ones may be less exact; here they
// are the same.
#pragma once
#include "base.h"

#define MATH1(type, name, value)                                                \
  DEFINE(type, name##_##type, "air." #name "." #type, type given) {             \
    const double x = double_of_##type(given);                                   \
    return type##_of_double(value);                                             \
  }                                                                             \
  DEFINE(type, fast_##name##_##type, "air.fast_" #name "." #type, type given) { \
    return name##_##type(given);                                                \
  }
#define MATH2(type, name, value)                                                            \
  DEFINE(type, name##_##type, "air." #name "." #type, type given, type other) {             \
    const double x = double_of_##type(given), y = double_of_##type(other);                  \
    return type##_of_double(value);                                                         \
  }                                                                                         \
  DEFINE(type, fast_##name##_##type, "air.fast_" #name "." #type, type given, type other) { \
    return name##_##type(given, other);                                                     \
  }
#define MATH3(type, name, value)                                                                        \
  DEFINE(type, name##_##type, "air." #name "." #type, type given, type other, type third) {             \
    const double x = double_of_##type(given), y = double_of_##type(other), z = double_of_##type(third); \
    return type##_of_double(value);                                                                     \
  }                                                                                                     \
  DEFINE(type, fast_##name##_##type, "air.fast_" #name "." #type, type given, type other, type third) { \
    return name##_##type(given, other, third);                                                          \
  }

// sin(pi x) and cos(pi x), by what is left of x in [-1/4, 1/4] after quarter turns.
INLINE double pi_part(double x, i64* quarters) {
  const double turns = x - 2 * __builtin_floor(x / 2), quarter = __builtin_rint(turns * 2);
  *quarters = (i64)quarter;
  return (turns - quarter / 2) * 3.14159265358979323846;
}
INLINE double sin_pi(double x, i64 ahead) {
  if (!(__builtin_fabs(x) < __builtin_inf())) return x - x;
  i64 quarters;
  const double angle = pi_part(x, &quarters);
  const double value = (quarters + ahead) & 1 ? double_cos(angle) : double_sin(angle);
  return (quarters + ahead) & 2 ? -value : value;
}
// What is left after floor, below 1.
INLINE double fraction(double x, double below) {
  const double part = x - __builtin_floor(x);
  return part < below ? part : below;
}
INLINE double sign_of(double x) {
  return x > 0 ? 1 : x < 0 ? -1 : x == 0 ? x : 0;
}
INLINE double least(double x, double y) {
  return __builtin_fmin(x, y);
}
INLINE double greatest(double x, double y) {
  return __builtin_fmax(x, y);
}

#define LARGEST_FRACTION_f32 0x1.fffffep-1
#define LARGEST_FRACTION_f16 0x1.ffcp-1
#define LARGEST_FRACTION_bf16 0x1.fep-1

#define FLOAT_MATH(type)                                                 \
  MATH1(type, exp, double_exp(x))                                        \
  MATH1(type, exp2, double_exp2(x))                                      \
  MATH1(type, exp10, double_exp10(x))                                    \
  MATH1(type, log, double_log(x))                                        \
  MATH1(type, log2, double_log2(x))                                      \
  MATH1(type, log10, double_log10(x))                                    \
  MATH1(type, sin, double_sin(x))                                        \
  MATH1(type, cos, double_cos(x))                                        \
  MATH1(type, tan, double_tan(x))                                        \
  MATH1(type, asin, double_asin(x))                                      \
  MATH1(type, acos, double_acos(x))                                      \
  MATH1(type, atan, double_atan(x))                                      \
  MATH1(type, sinh, double_sinh(x))                                      \
  MATH1(type, cosh, double_cosh(x))                                      \
  MATH1(type, tanh, double_tanh(x))                                      \
  MATH1(type, asinh, double_asinh(x))                                    \
  MATH1(type, acosh, double_acosh(x))                                    \
  MATH1(type, atanh, double_atanh(x))                                    \
  MATH1(type, sinpi, sin_pi(x, 0))                                       \
  MATH1(type, cospi, sin_pi(x, 1))                                       \
  MATH1(type, tanpi, sin_pi(x, 0) / sin_pi(x, 1))                        \
  MATH1(type, sqrt, __builtin_sqrt(x))                                   \
  MATH1(type, rsqrt, 1 / __builtin_sqrt(x))                              \
  MATH1(type, fabs, __builtin_fabs(x))                                   \
  MATH1(type, floor, __builtin_floor(x))                                 \
  MATH1(type, ceil, __builtin_ceil(x))                                   \
  MATH1(type, trunc, __builtin_trunc(x))                                 \
  MATH1(type, rint, __builtin_rint(x))                                   \
  MATH1(type, round, __builtin_trunc(x + __builtin_copysign(0.5, x)))    \
  MATH1(type, fract, fraction(x, LARGEST_FRACTION_##type))               \
  MATH1(type, sign, sign_of(x))                                          \
  MATH1(type, saturate, least(greatest(x, 0), 1))                        \
  MATH2(type, pow, double_pow(x, y))                                     \
  MATH2(type, powr, x < 0 ? __builtin_nan("") : double_pow(x, y))        \
  MATH2(type, atan2, double_atan2(x, y))                                 \
  MATH2(type, copysign, __builtin_copysign(x, y))                        \
  MATH2(type, fmin, least(x, y))                                         \
  MATH2(type, fmax, greatest(x, y))                                      \
  MATH2(type, fdim, x > y ? x - y : x != x || y != y ? x + y : 0)        \
  MATH2(type, fmod, double_fmod(x, y))                                   \
  MATH2(type, divide, x / y)                                             \
  MATH3(type, fmin3, least(x, least(y, z)))                              \
  MATH3(type, fmax3, greatest(x, greatest(y, z)))                        \
  MATH3(type, fmedian3, greatest(least(x, y), least(greatest(x, y), z))) \
  MATH3(type, clamp, least(greatest(x, y), z))
FOR_FLOATS(FLOAT_MATH)

DEFINE(f32, fma_f32, "air.fma.f32", f32 x, f32 y, f32 z) {
  return __builtin_fmaf(x, y, z);
}
DEFINE(f16, fma_f16, "air.fma.f16", f16 x, f16 y, f16 z) {
  return f16_of_double(__builtin_fma(x, y, z));
}
DEFINE(bf16, fma_bf16, "air.fma.bf16", bf16 x, bf16 y, bf16 z) {
  return bf16_of_double(__builtin_fma(f32_of_bf16(x), f32_of_bf16(y), f32_of_bf16(z)));
}

// x times 2^k: by steps that neither overflow nor lose bits before the last rounding.
INLINE double scaled(double x, i32 k) {
  k = k > 600 ? 600 : k < -600 ? -600 : k;
  return x * double_of_bits((u64)(1023 + k) << 52);
}
#define LDEXP(type)                                                         \
  DEFINE(type, ldexp_##type, "air.ldexp." #type, type x, i32 k) {           \
    return type##_of_double(scaled(double_of_##type(x), k));                \
  }                                                                         \
  DEFINE(type, fast_ldexp_##type, "air.fast_ldexp." #type, type x, i32 k) { \
    return ldexp_##type(x, k);                                              \
  }
FOR_FLOATS(LDEXP)
#undef LDEXP

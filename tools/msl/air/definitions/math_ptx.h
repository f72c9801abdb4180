// Functions of doubles for NVIDIA, whose virtual machine has none: series around what is left after a
// reduction, good to some 1e-14, so that the rounding to float is right but for close calls.
#pragma once
#include "base.h"

#define INFINITE __builtin_inf()
#define NO_NUMBER __builtin_nan("")
#define PI 3.14159265358979323846
#define LN2 0.69314718055994530942

// c[0] + x (c[1] + x (...)).
#define POLYNOMIAL(c, x) polynomial(c, sizeof(c) / sizeof(*(c)), x)
INLINE double polynomial(const double* c, u32 count, double x) {
  double sum = c[count - 1];
  for (u32 i = count - 1; i > 0; --i) sum = __builtin_fma(sum, x, c[i - 1]);
  return sum;
}

// 2^k for k down to what double has, by two steps.
INLINE double power_of_two(i32 k) {
  const i32 half = k / 2;
  return double_of_bits((u64)(1023 + half) << 52) * double_of_bits((u64)(1023 + k - half) << 52);
}

// ---- exponentials: e^r for |r| <= ln(2) / 2
INLINE double exp_part(double r) {
  static const double kInverseFactorials[] = {
      1,          1,           1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  return POLYNOMIAL(kInverseFactorials, r);
}
INLINE double double_exp(double x) {
  if (x != x) return x;
  if (x > 760) return INFINITE;
  if (x < -760) return 0;
  const double k = __builtin_rint(x * 1.44269504088896340736);
  const double rest = __builtin_fma(-k, 0x1.62e42fefa39efp-1, x);
  return exp_part(__builtin_fma(-k, 0x1.abc9e3b39803fp-56, rest)) * power_of_two((i32)k);
}
INLINE double double_exp2(double x) {
  if (x != x) return x;
  if (x > 1100) return INFINITE;
  if (x < -1100) return 0;
  const double k = __builtin_rint(x);
  return exp_part((x - k) * LN2) * power_of_two((i32)k);
}
INLINE double double_exp10(double x) {
  if (x != x) return x;
  if (x > 330) return INFINITE;
  if (x < -330) return 0;
  const double k = __builtin_rint(x * 3.32192809488736234787);
  const double rest = __builtin_fma(-k, 0.30102999566398119521, x);
  return exp_part(rest * 2.30258509299404568402) * power_of_two((i32)k);
}

// ---- logarithms: 2 artanh((m - 1) / (m + 1)) for m in [1 / sqrt(2), sqrt(2)]
INLINE double log_part(double s) {
  static const double kOddInverses[] = {2.0,      2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11,
                                        2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23};
  return s * POLYNOMIAL(kOddInverses, s * s);
}
// ln(x) = exponent * ln(2) + part for positive numbers that are normal as doubles, as all floats are.
INLINE double split_log(double x, double* exponent) {
  u64 bits = bits_of_double(x);
  i32 k = (i32)(bits >> 52) - 1023;
  double m = double_of_bits((bits & 0xFFFFFFFFFFFFFul) | 0x3FF0000000000000ul);
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    ++k;
  }
  *exponent = k;
  return log_part((m - 1) / (m + 1));
}
INLINE double logarithm(double x, double of_two, double of_e) {
  if (x != x || x < 0) return NO_NUMBER;
  if (x == 0) return -INFINITE;
  if (x == INFINITE) return x;
  double exponent;
  const double part = split_log(x, &exponent);
  return __builtin_fma(exponent, of_two, part * of_e);
}
INLINE double double_log(double x) {
  return logarithm(x, LN2, 1);
}
INLINE double double_log2(double x) {
  return logarithm(x, 1, 1.44269504088896340736);
}
INLINE double double_log10(double x) {
  return logarithm(x, 0.30102999566398119521, 0.43429448190325182765);
}

// ---- circular functions: an angle is some quarter turns and a rest in [-pi / 4, pi / 4]
INLINE double sin_part(double r) {
  static const double kTerms[] = {
      1, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000};
  return r * POLYNOMIAL(kTerms, r * r);
}
INLINE double cos_part(double r) {
  static const double kTerms[] = {1,
                                  -1.0 / 2,
                                  1.0 / 24,
                                  -1.0 / 720,
                                  1.0 / 40320,
                                  -1.0 / 3628800,
                                  1.0 / 479001600,
                                  -1.0 / 87178291200,
                                  1.0 / 20922789888000};
  return POLYNOMIAL(kTerms, r * r);
}
// For large floats (24 bits times a power of two): x 2 / pi modulo 4, by the bits of 2 / pi that matter.
INLINE double large_angle(double x, u32* quarters) {
  static const u32 kTwoOverPi[] = {0,          0,          0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0,
                                   0xDB629599, 0x3C439041, 0xFE5163AB, 0xDEBBC561, 0xB7246E3A};
  const u64 bits = bits_of_double(x);
  const u32 mantissa = (u32)((bits >> 29 & 0x7FFFFF) | 0x800000);  // x = mantissa * 2^power
  const i32 power = (i32)(bits >> 52 & 0x7FF) - 1023 - 23;
  // Bit 0 of kTwoOverPi[2]'s front is 2^-1; take 96 bits from where the product counts 2.
  const u32 from = (u32)(power + 64 - 2), word = from / 32, shift = from % 32;
  u32 part[3];
  for (u32 i = 0; i < 3; ++i) {
    const u64 two = (u64)kTwoOverPi[word + i] << 32 | kTwoOverPi[word + i + 1];
    part[i] = (u32)(two << shift >> 32);
  }
  // The top two bits of the product's lowest 96 are whole quarters.
  const u64 low = (u64)mantissa * part[2], middle = (u64)mantissa * part[1] + (low >> 32);
  const u64 high = (u64)(u32)(mantissa * part[0]) + (middle >> 32);
  u64 turns = (high << 32) | (u32)middle;
  u32 whole = (u32)(turns >> 62);
  i64 rest = (i64)(turns << 2);  // of a quarter, 2^-64 each; above a half the next quarter is nearer
  if (rest < 0) ++whole;
  *quarters = whole & 3;
  return (double)rest * 0x1p-64 * (PI / 2);
}
INLINE double angle_part(double x, u32* quarters) {
  const double size = __builtin_fabs(x);
  if (size >= 0x1p20) {
    const double rest = large_angle(size, quarters);
    if (x >= 0) return rest;
    *quarters = (4 - *quarters) & 3;
    return -rest;
  }
  const double k = __builtin_rint(x * (2 / PI));
  *quarters = (u32)(i32)k & 3;
  return __builtin_fma(-k, 0x1.1a62633145c07p-54, __builtin_fma(-k, 0x1.921fb54442d18p+0, x));
}
INLINE double circular(double x, u32 ahead) {
  if (!(__builtin_fabs(x) < INFINITE)) return NO_NUMBER;
  u32 quarters;
  const double rest = angle_part(x, &quarters);
  quarters += ahead;
  const double value = quarters & 1 ? cos_part(rest) : sin_part(rest);
  return quarters & 2 ? -value : value;
}
INLINE double double_sin(double x) {
  return x == 0 ? x : circular(x, 0);
}
INLINE double double_cos(double x) {
  return circular(x, 1);
}
INLINE double double_tan(double x) {
  return x == 0 ? x : circular(x, 0) / circular(x, 1);
}

// ---- their inverses: the angle is halved three times, then a series
INLINE double double_atan(double x) {
  if (x != x || x == 0) return x;
  const double size = __builtin_fabs(x);
  double t = size > 1 ? 1 / size : size;
  double times = 1;
  for (u32 i = 0; i < 3; ++i) {
    t = t / (1 + __builtin_sqrt(__builtin_fma(t, t, 1)));
    times *= 2;
  }
  static const double kTerms[] = {1, -1.0 / 3, 1.0 / 5, -1.0 / 7, 1.0 / 9, -1.0 / 11, 1.0 / 13, -1.0 / 15, 1.0 / 17};
  const double angle = times * t * POLYNOMIAL(kTerms, t * t);
  return __builtin_copysign(size > 1 ? PI / 2 - angle : angle, x);
}
INLINE double double_atan2(double y, double x) {
  if (x != x || y != y) return NO_NUMBER;
  const double across = __builtin_fabs(x), up = __builtin_fabs(y);
  double angle;
  if (up == 0) {
    angle = 0;
  } else if (across == INFINITE) {
    angle = up == INFINITE ? PI / 4 : 0;
  } else {
    angle = across == 0 || up == INFINITE ? PI / 2 : double_atan(up / across);
  }
  if (__builtin_copysign(1, x) < 0) angle = PI - angle;
  return __builtin_copysign(angle, y);
}
INLINE double double_asin(double x) {
  return __builtin_fabs(x) > 1 ? NO_NUMBER : x == 0 ? x : double_atan2(x, __builtin_sqrt((1 - x) * (1 + x)));
}
INLINE double double_acos(double x) {
  return __builtin_fabs(x) > 1 ? NO_NUMBER : double_atan2(__builtin_sqrt((1 - x) * (1 + x)), x);
}

// ---- hyperbolic functions; near zero by series, where differences would lose digits
INLINE double double_sinh(double x) {
  if (__builtin_fabs(x) < 0.3) {
    static const double kTerms[] = {1, 1.0 / 6, 1.0 / 120, 1.0 / 5040, 1.0 / 362880, 1.0 / 39916800};
    return x * POLYNOMIAL(kTerms, x * x);
  }
  const double e = double_exp(__builtin_fabs(x));
  return __builtin_copysign(0.5 * (e - 1 / e), x);
}
INLINE double double_cosh(double x) {
  const double e = double_exp(__builtin_fabs(x));
  return 0.5 * (e + 1 / e);
}
INLINE double double_tanh(double x) {
  if (__builtin_fabs(x) > 20) return __builtin_copysign(1, x);
  return double_sinh(x) / double_cosh(x);
}
// ln(1 + x)
INLINE double log_one_and(double x) {
  return __builtin_fabs(x) < 0.2 ? log_part(x / (2 + x)) : double_log(1 + x);
}
INLINE double double_asinh(double x) {
  const double size = __builtin_fabs(x);
  if (!(size < INFINITE)) return x;
  const double more = size * size / (1 + __builtin_sqrt(__builtin_fma(size, size, 1)));
  return __builtin_copysign(log_one_and(size + more), x);
}
INLINE double double_acosh(double x) {
  if (x < 1) return NO_NUMBER;
  const double above = x - 1;
  return x == INFINITE ? x : log_one_and(above + __builtin_sqrt(above * (x + 1)));
}
INLINE double double_atanh(double x) {
  if (__builtin_fabs(x) > 1) return NO_NUMBER;
  return x == 0 ? x : 0.5 * log_one_and(2 * x / (1 - x));
}

// ---- powers
INLINE double double_pow(double x, double y) {
  if (y == 0 || x == 1) return 1;
  if (x != x || y != y) return NO_NUMBER;
  const double size = __builtin_fabs(x);
  const _Bool whole = __builtin_floor(y) == y;  // infinities are even
  const _Bool odd = whole && __builtin_fabs(y) < 0x1p53 && ((i64)y & 1);
  if (x < 0 && !whole && size < INFINITE) return NO_NUMBER;
  double value;
  if (__builtin_fabs(y) == INFINITE) {
    value = size == 1 ? 1 : (size > 1) == (y > 0) ? INFINITE : 0;
  } else if (size == 0 || size == INFINITE) {
    value = (size == 0) == (y > 0) ? 0 : INFINITE;
  } else {
    // y log2(x) in two parts: whole powers of two, exact, and what is left.
    double exponent;
    const double part = split_log(size, &exponent) * 1.44269504088896340736;
    const double total = y * exponent, turns = __builtin_rint(total);
    const double rest = __builtin_fma(y, exponent, -turns) + y * part, more = __builtin_rint(rest);
    const double k = turns + more;
    value = k > 1000 ? INFINITE : k < -1000 ? 0 : exp_part((rest - more) * LN2) * power_of_two((i32)k);
  }
  return odd && __builtin_copysign(1, x) < 0 ? -value : value;
}

// The remainder of a division towards zero, exact: of floats, by whole numbers.
INLINE double double_fmod(double x, double y) {
  const double size = __builtin_fabs(x), by = __builtin_fabs(y);
  if (!(size < INFINITE) || by != by || by == 0) return NO_NUMBER;
  if (size < by) return x;
  const i32 by_power = (i32)(bits_of_double(by) >> 52) - 52;
  i32 power = (i32)(bits_of_double(size) >> 52) - 52;
  const u64 divisor = (bits_of_double(by) & 0xFFFFFFFFFFFFFul) | 1ul << 52;
  u64 rest = (bits_of_double(size) & 0xFFFFFFFFFFFFFul) | 1ul << 52;
  rest %= divisor;
  while (power > by_power) {
    const i32 step = power - by_power < 11 ? power - by_power : 11;
    rest = (rest << step) % divisor;
    power -= step;
  }
  const double value = (double)rest * power_of_two(by_power - 1023);
  return __builtin_copysign(value, x);
}

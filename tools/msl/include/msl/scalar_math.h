// float functions of one element, by target. The host's come from its C library,
// AIR has its own, PTX's are written here: that toolchain brings none.
#pragma once

namespace metal {
namespace scalar {

#if defined(MSL_TARGET_AIR)
#define MSL_AIR1(name)                                                          \
  __attribute__((const)) float name(float) __asm__("air." #name ".f32");        \
  __attribute__((const)) float fast_##name(float) __asm__("air.fast_" #name ".f32");
#define MSL_AIR2(name) __attribute__((const)) float name(float, float) __asm__("air." #name ".f32");
MSL_AIR1(exp)
MSL_AIR1(exp2)
MSL_AIR1(exp10)
MSL_AIR1(log)
MSL_AIR1(log2)
MSL_AIR1(log10)
MSL_AIR1(sin)
MSL_AIR1(cos)
MSL_AIR1(tan)
MSL_AIR1(asin)
MSL_AIR1(acos)
MSL_AIR1(atan)
MSL_AIR1(sinh)
MSL_AIR1(cosh)
MSL_AIR1(tanh)
MSL_AIR1(asinh)
MSL_AIR1(acosh)
MSL_AIR1(atanh)
MSL_AIR1(sqrt)
MSL_AIR1(rsqrt)
MSL_AIR1(fabs)
MSL_AIR1(floor)
MSL_AIR1(ceil)
MSL_AIR1(trunc)
MSL_AIR1(rint)
MSL_AIR1(round)
MSL_AIR1(fract)
MSL_AIR1(sign)
MSL_AIR1(saturate)
MSL_AIR1(sinpi)
MSL_AIR1(cospi)
MSL_AIR1(tanpi)
MSL_AIR2(pow)
MSL_AIR2(fmod)
MSL_AIR2(atan2)
#undef MSL_AIR1
#undef MSL_AIR2
__attribute__((const)) float ldexp(float, int) __asm__("air.ldexp.f32");
#elif !defined(MSL_TARGET_PTX)
#define MSL_LIBM1(name)            \
  MSL_FN float name(float x) {     \
    return __builtin_##name##f(x); \
  }
MSL_LIBM1(exp)
MSL_LIBM1(exp2)
MSL_FN float fast_exp2(float x) {
  return exp2(x);
}
MSL_LIBM1(log)
MSL_LIBM1(log2)
MSL_LIBM1(log10) MSL_LIBM1(sin) MSL_LIBM1(cos) MSL_LIBM1(tan) MSL_LIBM1(asin) MSL_LIBM1(acos) MSL_LIBM1(atan)
    MSL_LIBM1(sinh) MSL_LIBM1(cosh) MSL_LIBM1(tanh) MSL_LIBM1(asinh) MSL_LIBM1(acosh) MSL_LIBM1(atanh) MSL_LIBM1(erf)
        MSL_LIBM1(expm1) MSL_LIBM1(log1p)
#undef MSL_LIBM1
            MSL_FN float exp10(float x) {
  return __builtin_exp10f(x);
}
MSL_FN float sqrt(float x) {
  return __builtin_sqrtf(x);
}
MSL_FN float rsqrt(float x) {
  return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(x)));  // rounded once
}
MSL_FN float pow(float x, float y) {
  return __builtin_powf(x, y);
}
MSL_FN float fmod(float x, float y) {
  return __builtin_fmodf(x, y);
}
MSL_FN float atan2(float y, float x) {
  return __builtin_atan2f(y, x);
}
MSL_FN float round(float x) {
  return __builtin_roundf(x);
}
MSL_FN float ldexp(float x, int n) {
  return __builtin_ldexpf(x, n);
}
MSL_FN float frexp(float x, int& n) {
  return __builtin_frexpf(x, &n);
}
#else
// ex2, lg2, sqrt and rcp are the machine's own; the rest is built on them with
// errors of a few units in the last place.
MSL_FN float sqrt(float x) {
  float r;
  asm("sqrt.rn.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
MSL_FN float rsqrt(float x) {
  float r;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
MSL_FN float exp2(float x) {
  float r;
  asm("ex2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
// A number below 2^-126 may be taken for zero.
MSL_FN float fast_exp2(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
MSL_FN float log2(float x) {
  float r;
  asm("lg2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
MSL_FN float ldexp(float x, int n) {
  const int half_n = n / 2;
  const int a = half_n < -126 ? -126 : half_n > 127 ? 127 : half_n;
  int rest = n - a;
  rest = rest < -252 ? -252 : rest > 254 ? 254 : rest;
  const int b = rest / 2;
  return x * __builtin_bit_cast(float, (a + 127) << 23) * __builtin_bit_cast(float, (b + 127) << 23) *
         __builtin_bit_cast(float, (rest - b + 127) << 23);
}
MSL_FN float exp(float x) {
  // x = n ln 2 + r; 2^(r / ln 2) by the machine, |r| small, so its error stays small.
  const float n = __builtin_rintf(x * 1.44269504f);
  const float r = __builtin_fmaf(n, -1.42860677e-6f, __builtin_fmaf(n, -0.693145752f, x));
  if (x > 89.0f) return __builtin_inff();  // infinity too, of which r would be NaN
  return x < -104.0f ? 0.0f : ldexp(exp2(__builtin_fmaf(r, 1.44269504f, r * 1.92596299e-8f)), static_cast<int>(n));
}
MSL_FN float exp10(float x) {
  return exp2(x * 3.32192809f);
}
MSL_FN float log(float x) {
  return log2(x) * 0.693147181f;
}
MSL_FN float log10(float x) {
  return log2(x) * 0.301029996f;
}
MSL_FN float expm1(float x) {
  if (__builtin_fabsf(x) > 0.5f) return exp(x) - 1.0f;
  float p = 1.98412698e-4f;
  p = __builtin_fmaf(p, x, 1.38888889e-3f);
  p = __builtin_fmaf(p, x, 8.33333333e-3f);
  p = __builtin_fmaf(p, x, 4.16666667e-2f);
  p = __builtin_fmaf(p, x, 1.66666667e-1f);
  p = __builtin_fmaf(p, x, 0.5f);
  return __builtin_fmaf(p * x, x, x);
}
MSL_FN float log1p(float x) {
  const float u = 1.0f + x;
  return u == 1.0f ? x : u == __builtin_inff() ? u : log(u) * (x / (u - 1.0f));
}
MSL_FN float round(float x) {
  const float t = __builtin_truncf(x);
  return __builtin_fabsf(x - t) >= 0.5f ? t + __builtin_copysignf(1.0f, x) : __builtin_copysignf(t, x);
}
MSL_FN float frexp(float x, int& n) {
  n = 0;
  if (x == 0.0f || x != x || __builtin_fabsf(x) == __builtin_inff()) return x;
  if (__builtin_fabsf(x) < 0x1p-126f) {
    x *= 0x1p24f;
    n = -24;
  }
  const unsigned bits = __builtin_bit_cast(unsigned, x);
  n += static_cast<int>(bits >> 23 & 255) - 126;
  return __builtin_bit_cast(float, (bits & 0x807FFFFFu) | 0x3F000000u);
}
// Cody and Waite's reduction by pi/2 in three parts; to |x| of some 1e5.
MSL_FN float sin_reduced(float r) {
  const float s = r * r;
  float p = __builtin_fmaf(s, 2.86567956e-6f, -1.98559923e-4f);
  p = __builtin_fmaf(p, s, 8.33338592e-3f);
  p = __builtin_fmaf(p, s, -1.66666672e-1f);
  return __builtin_fmaf(r * s, p, r);
}
MSL_FN float cos_reduced(float r) {
  const float s = r * r;
  float p = __builtin_fmaf(s, 2.44677067e-5f, -1.38877297e-3f);
  p = __builtin_fmaf(p, s, 4.16666567e-2f);
  p = __builtin_fmaf(p, s, -0.5f);
  return __builtin_fmaf(p, s, 1.0f);
}
MSL_FN float quarter_turns(float x, int& n) {
  const float q = __builtin_rintf(x * 0.636619747f);
  n = static_cast<int>(q);
  float r = __builtin_fmaf(q, -1.57079601e+00f, x);
  r = __builtin_fmaf(q, -3.13916473e-07f, r);
  return __builtin_fmaf(q, -5.39030253e-15f, r);
}
MSL_FN float sin(float x) {
  int n;
  const float r = quarter_turns(x, n);
  const float v = (n & 1) ? cos_reduced(r) : sin_reduced(r);
  return (n & 2) ? -v : v;
}
MSL_FN float cos(float x) {
  int n;
  const float r = quarter_turns(x, n);
  const float v = (n & 1) ? sin_reduced(r) : cos_reduced(r);
  return ((n + 1) & 2) ? -v : v;
}
MSL_FN float tan(float x) {
  return sin(x) / cos(x);
}
MSL_FN float tanh(float x) {
  const float a = __builtin_fabsf(x);
  const float e = expm1(2.0f * (a > 10.0f ? 10.0f : a));
  return x != x ? x : __builtin_copysignf(e / (e + 2.0f), x);
}
MSL_FN float sinh(float x) {
  const float e = expm1(__builtin_fabsf(x));
  return __builtin_copysignf(0.5f * (e + e / (e + 1.0f)), x);
}
MSL_FN float cosh(float x) {
  const float e = exp(__builtin_fabsf(x));
  return 0.5f * e + 0.5f / e;
}
MSL_FN float atan(float x) {
  const float a = __builtin_fabsf(x);
  const bool outer = a > 1.0f;
  const float t = outer ? 1.0f / a : a;
  const float s = t * t;
  float p = 2.78569828e-3f;
  p = __builtin_fmaf(p, s, -1.58660226e-2f);
  p = __builtin_fmaf(p, s, 4.24722321e-2f);
  p = __builtin_fmaf(p, s, -7.49753043e-2f);
  p = __builtin_fmaf(p, s, 1.06448799e-1f);
  p = __builtin_fmaf(p, s, -1.42070308e-1f);
  p = __builtin_fmaf(p, s, 1.99934542e-1f);
  p = __builtin_fmaf(p, s, -3.33331466e-1f);
  const float v = __builtin_fmaf(p * s, t, t);
  return __builtin_copysignf(outer ? 1.57079633f - v : v, x);
}
MSL_FN float atan2(float y, float x) {
  if (x == 0.0f && y == 0.0f) return __builtin_copysignf(__builtin_copysignf(1.0f, x) < 0 ? 3.14159265f : 0.0f, y);
  const float v = atan(__builtin_fabsf(y) / __builtin_fabsf(x));
  return __builtin_copysignf(x < 0.0f ? 3.14159265f - v : v, y);
}
MSL_FN float asin(float x) {
  return atan2(x, sqrt((1.0f - x) * (1.0f + x)));
}
MSL_FN float acos(float x) {
  return atan2(sqrt((1.0f - x) * (1.0f + x)), x);
}
MSL_FN float asinh(float x) {
  const float a = __builtin_fabsf(x);
  return __builtin_copysignf(log1p(a + a * a / (1.0f + sqrt(1.0f + a * a))), x);
}
MSL_FN float acosh(float x) {
  return log1p((x - 1.0f) + sqrt((x - 1.0f) * (x + 1.0f)));
}
MSL_FN float atanh(float x) {
  return 0.5f * log1p(2.0f * x / (1.0f - x));
}
// Abramowitz and Stegun 7.1.26 is too coarse; the series near zero, their 7.1.28 beyond.
MSL_FN float erf(float x) {
  const float a = __builtin_fabsf(x);
  if (a < 1.0f) {
    const float s = x * x;
    float p = -8.23671e-5f;
    p = __builtin_fmaf(p, s, 8.54832e-4f - 3.6e-5f);
    p = __builtin_fmaf(p, s, -5.22397763e-3f);
    p = __builtin_fmaf(p, s, 2.68661706e-2f);
    p = __builtin_fmaf(p, s, -1.12837917e-1f);
    p = __builtin_fmaf(p, s, 3.76126389e-1f);
    return x * (1.12837917f - s * p);
  }
  const float t = 1.0f / __builtin_fmaf(0.3275911f, a, 1.0f);
  float p = 1.061405429f;
  p = __builtin_fmaf(p, t, -1.453152027f);
  p = __builtin_fmaf(p, t, 1.421413741f);
  p = __builtin_fmaf(p, t, -0.284496736f);
  p = __builtin_fmaf(p, t, 0.254829592f);
  return __builtin_copysignf(1.0f - p * t * exp(-a * a), x);
}
MSL_FN float pow(float x, float y) {
  if (y == 0.0f || x == 1.0f) return 1.0f;
  const float magnitude = exp2(y * log2(__builtin_fabsf(x)));
  if (!(x < 0.0f)) return magnitude;
  if (__builtin_truncf(y) != y) return __builtin_nanf("");
  return __builtin_truncf(y * 0.5f) * 2.0f == y ? magnitude : -magnitude;
}
MSL_FN float fmod(float x, float y) {
  return __builtin_fmaf(-__builtin_truncf(x / y), y, x);
}
#endif

#ifndef MSL_TARGET_AIR
MSL_FN float fabs(float x) {
  return __builtin_fabsf(x);
}
MSL_FN float floor(float x) {
  return __builtin_floorf(x);
}
MSL_FN float ceil(float x) {
  return __builtin_ceilf(x);
}
MSL_FN float trunc(float x) {
  return __builtin_truncf(x);
}
MSL_FN float rint(float x) {
  return __builtin_rintf(x);
}
MSL_FN float fract(float x) {
  const float f = x - __builtin_floorf(x);
  return f < 0x1.fffffep-1f ? f : 0x1.fffffep-1f;
}
MSL_FN float sign(float x) {
  return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x != x ? 0.0f : x;
}
MSL_FN float saturate(float x) {
  return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
MSL_FN float sinpi(float x) {
  return sin((x - 2.0f * __builtin_rintf(x * 0.5f)) * 3.14159265f);
}
MSL_FN float cospi(float x) {
  return cos((x - 2.0f * __builtin_rintf(x * 0.5f)) * 3.14159265f);
}
MSL_FN float tanpi(float x) {
  return sinpi(x) / cospi(x);
}
#endif

}  // namespace scalar
}  // namespace metal

// Floating-point functions over half, bfloat, float and their vectors.
#pragma once

namespace metal {

// MSL has no functions of bfloat, and some kernels bring their own. Ours are templates,
// so that those win.
template <typename B>
using msl_if_bfloat = enable_if_t<is_same_v<B, bfloat>, int>;
#define MSL_STRIP(...) __VA_ARGS__

#define MSL_UNARY_FLOAT_FUNCTIONS(X)                                                                               \
  X(exp)                                                                                                           \
  X(exp10)                                                                                                         \
  X(log)                                                                                                           \
  X(log2) X(log10) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) X(atanh) \
      X(sqrt) X(rsqrt) X(fabs) X(floor) X(ceil) X(trunc) X(rint) X(round) X(fract) X(sign) X(saturate) X(sinpi)    \
          X(cospi) X(tanpi)
// half and bfloat are computed in float and rounded once.
#define MSL_UNARY_AS(name, f)                                                                      \
  MSL_FN float name(float x) {                                                               \
    return f(x);                                                                  \
  }                                                                                          \
  MSL_FN half name(half x) {                                                                 \
    return static_cast<half>(f(static_cast<float>(x)));                           \
  }                                                                                          \
  template <typename B, msl_if_bfloat<B> = 0>                                         \
  MSL_FN B name(B x) {                                                                       \
    return static_cast<B>(f(static_cast<float>(x)));                              \
  }                                                                                          \
  template <typename V, typename = msl_if_vector<V>>                                         \
  MSL_FN V name(V x) {                                                                       \
    V r;                                                                                     \
    for (int i = 0; i < msl_count<V>; ++i) r[i] = name(static_cast<msl_element_t<V>>(x[i])); \
    return r;                                                                                \
  }
#define MSL_UNARY(name) MSL_UNARY_AS(name, scalar::name)
MSL_UNARY_FLOAT_FUNCTIONS(MSL_UNARY)
MSL_UNARY(exp2)

// Two of the floating-point types, not the same.
template <typename T>
constexpr bool msl_is_float = __is_same(T, float) || __is_same(T, half) || __is_same(T, bfloat);
template <typename A, typename B>
using msl_if_mixed_floats = enable_if_t<msl_is_float<A> && msl_is_float<B> && !__is_same(A, B)>;

#define MSL_BINARY(name, expression)                                                                \
  MSL_FN float name(float x, float y) {                                                             \
    return expression;                                                                              \
  }                                                                                                 \
  MSL_FN half name(half x, half y) {                                                                \
    return static_cast<half>(name(static_cast<float>(x), static_cast<float>(y)));                   \
  }                                                                                                 \
  template <typename B, msl_if_bfloat<B> = 0>                                                \
  MSL_FN B name(B x, B y) {                                                                         \
    return static_cast<B>(name(static_cast<float>(x), static_cast<float>(y)));                      \
  }                                                                                                 \
  template <typename A, typename B, typename = msl_if_mixed_floats<A, B>>                           \
  MSL_FN float name(A x, B y) {                                                                     \
    return name(static_cast<float>(x), static_cast<float>(y));                                      \
  }                                                                                                 \
  template <typename V, typename = msl_if_vector<V>>                                                \
  MSL_FN V name(V x, V y) {                                                                         \
    using E = msl_element_t<V>;                                                                     \
    V r;                                                                                            \
    for (int i = 0; i < msl_count<V>; ++i) r[i] = name(static_cast<E>(x[i]), static_cast<E>(y[i])); \
    return r;                                                                                       \
  }
MSL_BINARY(pow, scalar::pow(x, y))
MSL_BINARY(powr, scalar::pow(x, y))
MSL_BINARY(fmod, scalar::fmod(x, y))
MSL_BINARY(atan2, scalar::atan2(x, y))
MSL_BINARY(copysign, __builtin_copysignf(x, y))
MSL_BINARY(step, y < x ? 0.0f : 1.0f)
MSL_BINARY(fdim, x > y ? x - y : 0.0f)
MSL_BINARY(divide, x / y)

namespace fast {
#ifdef MSL_TARGET_AIR
#define MSL_FAST(name) MSL_UNARY_AS(name, scalar::fast_##name)
#else
#define MSL_FAST(name) MSL_UNARY(name)
#endif
MSL_UNARY_FLOAT_FUNCTIONS(MSL_FAST)
#undef MSL_FAST
MSL_UNARY_AS(exp2, scalar::fast_exp2)
MSL_BINARY(pow, scalar::pow(x, y))
MSL_BINARY(powr, scalar::pow(x, y))
MSL_BINARY(fmod, scalar::fmod(x, y))
MSL_BINARY(atan2, scalar::atan2(x, y))
MSL_BINARY(divide, x / y)
MSL_BINARY(max, x > y ? x : y)
MSL_BINARY(min, x < y ? x : y)
MSL_BINARY(fmax, x > y ? x : y)
MSL_BINARY(fmin, x < y ? x : y)
MSL_FN float clamp(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}
MSL_FN float abs(float x) {
  return __builtin_fabsf(x);
}
}  // namespace fast
namespace precise {
MSL_UNARY_FLOAT_FUNCTIONS(MSL_UNARY)
MSL_UNARY(exp2)
MSL_BINARY(pow, scalar::pow(x, y))
MSL_BINARY(powr, scalar::pow(x, y))
MSL_BINARY(fmod, scalar::fmod(x, y))
MSL_BINARY(atan2, scalar::atan2(x, y))
MSL_BINARY(divide, x / y)
MSL_BINARY(max, __builtin_fmaxf(x, y))
MSL_BINARY(min, __builtin_fminf(x, y))
MSL_FN float clamp(float x, float low, float high) {
  return __builtin_fminf(__builtin_fmaxf(x, low), high);
}
}  // namespace precise
#undef MSL_UNARY
#undef MSL_UNARY_AS
#undef MSL_BINARY

MSL_FN float ldexp(float x, int n) {
  return scalar::ldexp(x, n);
}
MSL_FN half ldexp(half x, int n) {
  return static_cast<half>(scalar::ldexp(static_cast<float>(x), n));
}
#ifndef MSL_TARGET_AIR
MSL_FN float frexp(float x, thread int& n) {
  return scalar::frexp(x, n);
}
MSL_FN int ilogb(float x) {
  int n;
  scalar::frexp(x, n);
  return n - 1;
}
#endif
MSL_FN float modf(float x, thread float& whole) {
  whole = __builtin_truncf(x);
  return __builtin_copysignf(x - whole, x);
}
MSL_FN float sincos(float x, thread float& cosine) {
  cosine = scalar::cos(x);
  return scalar::sin(x);
}
MSL_FN float nextafter(float x, float y) {
  if (x != x || y != y) return x + y;
  if (x == y) return y;
  if (x == 0.0f) return __builtin_copysignf(0x1p-149f, y);
  const int bits = __builtin_bit_cast(int, x);
  return __builtin_bit_cast(float, (x < y) == (x > 0.0f) ? bits + 1 : bits - 1);
}

// One rounding, in every type.
MSL_FN float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
MSL_FN half fma(half a, half b, half c) {
#if defined(MSL_TARGET_PTX) || defined(MSL_TARGET_AIR)
  return __builtin_elementwise_fma(a, b, c);
#else
  // The product is exact in double; adding rounds to odd places far below half's.
  return static_cast<half>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
#endif
}
template <typename B, msl_if_bfloat<B> = 0>
MSL_FN B fma(B a, B b, B c) {
  return static_cast<B>(__builtin_fmaf(static_cast<float>(a), static_cast<float>(b), static_cast<float>(c)));
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN V fma(V a, V b, V c) {
#if defined(MSL_TARGET_PTX) || defined(MSL_TARGET_AIR)
  if constexpr (!is_same_v<msl_element_t<V>, bfloat>) return __builtin_elementwise_fma(a, b, c);
#endif
  using E = msl_element_t<V>;
  V r;
  for (int i = 0; i < msl_count<V>; ++i) r[i] = fma(static_cast<E>(a[i]), static_cast<E>(b[i]), static_cast<E>(c[i]));
  return r;
}

#define MSL_MIX(head, T)                              \
  MSL_STRIP head MSL_FN T mix(T x, T y, T a) {                       \
    return static_cast<T>(x + (y - x) * a);           \
  }                                                   \
  MSL_STRIP head MSL_FN T smoothstep(T low, T high, T x) {           \
    T t = static_cast<T>((x - low) / (high - low));   \
    t = t < T(0) ? T(0) : t > T(1) ? T(1) : t;        \
    return static_cast<T>(t * t * (T(3) - T(2) * t)); \
  }
MSL_MIX((), float)
MSL_MIX((), half)
MSL_MIX((template <typename B, msl_if_bfloat<B> = 0>), B)
#undef MSL_MIX
template <typename V, typename = msl_if_vector<V>>
MSL_FN V mix(V x, V y, V a) {
  return x + (y - x) * a;
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN V mix(V x, V y, msl_element_t<V> a) {
  return x + (y - x) * a;
}

// ---- geometric
template <typename V, typename = msl_if_vector<V>>
MSL_FN msl_element_t<V> dot(V a, V b) {
  msl_element_t<V> sum = 0;
  for (int i = 0; i < msl_count<V>; ++i) sum += a[i] * b[i];
  return sum;
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN msl_element_t<V> length_squared(V a) {
  return dot(a, a);
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN msl_element_t<V> length(V a) {
  return sqrt(dot(a, a));
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN msl_element_t<V> distance(V a, V b) {
  return length(a - b);
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN V normalize(V a) {
  return a * rsqrt(dot(a, a));
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN V cross(V a, V b) {
  V r;
  r[0] = a[1] * b[2] - a[2] * b[1];
  r[1] = a[2] * b[0] - a[0] * b[2];
  r[2] = a[0] * b[1] - a[1] * b[0];
  return r;
}

// ---- relational
#define MSL_CLASSIFY(head, T)                                                               \
  MSL_STRIP head MSL_FN bool isnan(T x) {                                                            \
    return x != x;                                                                    \
  }                                                                                   \
  MSL_STRIP head MSL_FN bool isinf(T x) {                                                            \
    return __builtin_fabsf(static_cast<float>(x)) == __builtin_inff();                \
  }                                                                                   \
  MSL_STRIP head MSL_FN bool isfinite(T x) {                                                         \
    return __builtin_fabsf(static_cast<float>(x)) < __builtin_inff();                 \
  }                                                                                   \
  MSL_STRIP head MSL_FN bool isnormal(T x) {                                                         \
    const float a = __builtin_fabsf(static_cast<float>(x));                           \
    return a >= static_cast<float>(numeric_limits<T>::min()) && a < __builtin_inff(); \
  }                                                                                   \
  MSL_STRIP head MSL_FN bool signbit(T x) {                                                          \
    return __builtin_copysignf(1.0f, static_cast<float>(x)) < 0;                      \
  }
MSL_CLASSIFY((), float)
MSL_CLASSIFY((), half)
MSL_CLASSIFY((template <typename B, msl_if_bfloat<B> = 0>), B)
#undef MSL_CLASSIFY
#define MSL_CLASSIFY_VECTOR(name)                                                            \
  template <typename V, typename = msl_if_vector<V>>                                         \
  MSL_FN msl_bool_vector<msl_count<V>> name(V x) {                                                 \
    msl_bool_vector<msl_count<V>> r;                                                               \
    for (int i = 0; i < msl_count<V>; ++i) r[i] = name(static_cast<msl_element_t<V>>(x[i])); \
    return r;                                                                                \
  }
MSL_CLASSIFY_VECTOR(isnan)
MSL_CLASSIFY_VECTOR(isinf)
MSL_CLASSIFY_VECTOR(isfinite)
#undef MSL_CLASSIFY_VECTOR

}  // namespace metal

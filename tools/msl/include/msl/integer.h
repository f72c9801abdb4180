// Integer, common and relational functions.
#pragma once

namespace metal {

#define MSL_ORDER(head, T, greater, less)              \
  MSL_STRIP head MSL_FN constexpr T max(T a, T b) {             \
    return greater;                              \
  }                                              \
  MSL_STRIP head MSL_FN constexpr T min(T a, T b) {             \
    return less;                                 \
  }                                              \
  MSL_STRIP head MSL_FN constexpr T clamp(T x, T low, T high) { \
    return min(max(x, low), high);               \
  }                                              \
  MSL_ORDER_OF_3(head, T, min, max, min3, max3, median3)
#define MSL_ORDER_OF_3(head, T, min, max, min3, max3, median3)    \
  MSL_STRIP head MSL_FN constexpr T max3(T a, T b, T c) {         \
    return max(a, max(b, c));                                     \
  }                                                               \
  MSL_STRIP head MSL_FN constexpr T min3(T a, T b, T c) {         \
    return min(a, min(b, c));                                     \
  }                                                               \
  MSL_STRIP head MSL_FN constexpr T median3(T a, T b, T c) {      \
    return max(min(a, b), min(max(a, b), c));                     \
  }
#define MSL_ORDER_INTEGER(T) MSL_ORDER((), T, (a > b ? a : b), (a < b ? a : b))
MSL_ORDER_INTEGER(char)
MSL_ORDER_INTEGER(signed char)
MSL_ORDER_INTEGER(uchar)
MSL_ORDER_INTEGER(short)
MSL_ORDER_INTEGER(ushort)
MSL_ORDER_INTEGER(int)
MSL_ORDER_INTEGER(uint)
MSL_ORDER_INTEGER(long)
MSL_ORDER_INTEGER(ulong)
// A NaN loses against a number; so do PTX's own instructions have it, and AIR's functions.
#if defined(MSL_TARGET_PTX) || defined(MSL_TARGET_AIR)
#define MSL_ORDER_BY(machine, plain) (__builtin_is_constant_evaluated() ? (plain) : machine(a, b))
#else
#define MSL_ORDER_BY(machine, plain) (plain)
#endif
#define MSL_ORDER_FLOAT(head, T)                                                                           \
  MSL_ORDER(head, T, MSL_ORDER_BY(__builtin_elementwise_max, a != a ? b : b != b ? a : a > b ? a : b),     \
            MSL_ORDER_BY(__builtin_elementwise_min, a != a ? b : b != b ? a : a < b ? a : b))              \
  MSL_STRIP head MSL_FN constexpr T fmax(T a, T b) {                                                                \
    return max(a, b);                                                                                \
  }                                                                                                  \
  MSL_STRIP head MSL_FN constexpr T fmin(T a, T b) {                                                                \
    return min(a, b);                                                                                \
  }                                                                                                  \
  MSL_ORDER_OF_3(head, T, fmin, fmax, fmin3, fmax3, fmedian3)                                        \
  MSL_STRIP head MSL_FN constexpr T abs(T x) {                                                                      \
    return x < T(0) || (x == T(0)) ? (x == T(0) ? T(0) : T(-x)) : x;                                 \
  }
MSL_ORDER_FLOAT((), float)
MSL_ORDER_FLOAT((), half)
MSL_ORDER_FLOAT((template <typename B, msl_if_bfloat<B> = 0>), B)
#undef MSL_ORDER
#undef MSL_ORDER_INTEGER
#undef MSL_ORDER_FLOAT
#undef MSL_ORDER_BY
#define MSL_ABS(T)                         \
  MSL_FN constexpr T abs(T x) {            \
    return x < 0 ? static_cast<T>(-x) : x; \
  }
MSL_ABS(char)
MSL_ABS(signed char)
MSL_ABS(short)
MSL_ABS(int)
MSL_ABS(long)
#undef MSL_ABS
    MSL_FN constexpr uint abs(uint x) {
  return x;
}

#define MSL_ELEMENTWISE2(name)                                                                      \
  template <typename V, typename = msl_if_vector<V>>                                                \
  MSL_FN V name(V a, V b) {                                                                         \
    using E = msl_element_t<V>;                                                                     \
    V r;                                                                                            \
    for (int i = 0; i < msl_count<V>; ++i) r[i] = name(static_cast<E>(a[i]), static_cast<E>(b[i])); \
    return r;                                                                                       \
  }                                                                                                 \
  template <typename V, typename = msl_if_vector<V>>                                                \
  MSL_FN V name(V a, msl_element_t<V> b) {                                                          \
    using E = msl_element_t<V>;                                                                     \
    V r;                                                                                            \
    for (int i = 0; i < msl_count<V>; ++i) r[i] = name(static_cast<E>(a[i]), b);                    \
    return r;                                                                                       \
  }                                                                                                 \
  template <typename V, typename = msl_if_vector<V>>                                                \
  MSL_FN V name(msl_element_t<V> a, V b) {                                                          \
    return name(b, a);                                                                              \
  }
MSL_ELEMENTWISE2(max)
MSL_ELEMENTWISE2(min)
MSL_ELEMENTWISE2(fmax)
MSL_ELEMENTWISE2(fmin)
#undef MSL_ELEMENTWISE2
#define MSL_VECTOR_HEAD (template <typename V, typename = msl_if_vector<V>>)
MSL_ORDER_OF_3(MSL_VECTOR_HEAD, V, min, max, min3, max3, median3)
MSL_ORDER_OF_3(MSL_VECTOR_HEAD, V, fmin, fmax, fmin3, fmax3, fmedian3)
#undef MSL_VECTOR_HEAD
#undef MSL_ORDER_OF_3
template <typename V, typename = msl_if_vector<V>>
MSL_FN V clamp(V x, V low, V high) {
  return min(max(x, low), high);
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN V clamp(V x, msl_element_t<V> low, msl_element_t<V> high) {
  return min(max(x, low), high);
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN V abs(V x) {
  V r;
  for (int i = 0; i < msl_count<V>; ++i) r[i] = abs(static_cast<msl_element_t<V>>(x[i]));
  return r;
}

MSL_FN bool any(bool x) {
  return x;
}
MSL_FN bool all(bool x) {
  return x;
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN bool any(V x) {
  bool r = false;
  for (int i = 0; i < msl_count<V>; ++i) r = r || x[i] != 0;
  return r;
}
template <typename V, typename = msl_if_vector<V>>
MSL_FN bool all(V x) {
  bool r = true;
  for (int i = 0; i < msl_count<V>; ++i) r = r && x[i] != 0;
  return r;
}
template <typename T>
MSL_FN T select(T a, T b, bool c) {
  return c ? b : a;
}
template <typename V, typename C, typename = msl_if_vector<V>, typename = msl_if_vector<C>>
MSL_FN V select(V a, V b, C c) {
  V r;
  for (int i = 0; i < msl_count<V>; ++i) r[i] = c[i] != 0 ? b[i] : a[i];
  return r;
}
template <typename V, typename C, typename = msl_if_vector<V>, typename = msl_if_vector<C>>
MSL_FN V select(V a, msl_element_t<V> b, C c) {
  return select(a, V(b), c);
}
template <typename V, typename C, typename = msl_if_vector<V>, typename = msl_if_vector<C>>
MSL_FN V select(msl_element_t<V> a, V b, C c) {
  return select(V(a), b, c);
}

#define MSL_BITS(T)                                                                                                    \
  MSL_FN T popcount(T x) {                                                                                             \
    return static_cast<T>(__builtin_popcountll(static_cast<make_unsigned_t<T>>(x)));                                   \
  }                                                                                                                    \
  MSL_FN T clz(T x) {                                                                                                  \
    return static_cast<T>(x == 0 ? sizeof(T) * 8                                                                       \
                                 : __builtin_clzll(static_cast<make_unsigned_t<T>>(x)) - (64 - sizeof(T) * 8));        \
  }                                                                                                                    \
  MSL_FN T ctz(T x) {                                                                                                  \
    return static_cast<T>(x == 0 ? sizeof(T) * 8 : __builtin_ctzll(static_cast<make_unsigned_t<T>>(x)));               \
  }                                                                                                                    \
  MSL_FN T rotate(T x, T n) {                                                                                          \
    using U = make_unsigned_t<T>;                                                                                      \
    constexpr unsigned bits = sizeof(T) * 8;                                                                           \
    const unsigned k = static_cast<unsigned>(n) % bits;                                                                \
    return static_cast<T>(k == 0 ? static_cast<U>(x)                                                                   \
                                 : static_cast<U>(static_cast<U>(x) << k | static_cast<U>(x) >> (bits - k)));          \
  }                                                                                                                    \
  MSL_FN T extract_bits(T x, uint offset, uint bits) {                                                                 \
    if (bits == 0) return 0;                                                                                           \
    constexpr uint width = sizeof(T) * 8;                                                                              \
    return static_cast<T>(static_cast<T>(static_cast<make_unsigned_t<T>>(x) << (width - offset - bits)) >>             \
                          (width - bits));                                                                             \
  }                                                                                                                    \
  MSL_FN T insert_bits(T base, T insert, uint offset, uint bits) {                                                     \
    using U = make_unsigned_t<T>;                                                                                      \
    const U mask = static_cast<U>((bits >= sizeof(T) * 8 ? ~U(0) : static_cast<U>((U(1) << bits) - 1)) << offset);     \
    return static_cast<T>((static_cast<U>(base) & ~mask) | (static_cast<U>(static_cast<U>(insert) << offset) & mask)); \
  }                                                                                                                    \
  MSL_FN T absdiff(T a, T b) {                                                                                         \
    return static_cast<T>(a > b ? a - b : b - a);                                                                      \
  }                                                                                                                    \
  MSL_FN T hadd(T a, T b) {                                                                                            \
    return static_cast<T>((a & b) + ((a ^ b) >> 1));                                                                   \
  }                                                                                                                    \
  MSL_FN T reverse_bits(T x) {                                                                                         \
    return static_cast<T>(__builtin_bitreverse64(static_cast<make_unsigned_t<T>>(x)) >> (64 - sizeof(T) * 8));         \
  }
MSL_BITS(char)
MSL_BITS(uchar)
MSL_BITS(short)
MSL_BITS(ushort)
MSL_BITS(int) MSL_BITS(uint) MSL_BITS(long) MSL_BITS(ulong)
#undef MSL_BITS
    MSL_FN uint mulhi(uint a, uint b) {
  return static_cast<uint>(static_cast<ulong>(a) * b >> 32);
}
MSL_FN int mulhi(int a, int b) {
  return static_cast<int>(static_cast<long>(a) * b >> 32);
}
MSL_FN ulong mulhi(ulong a, ulong b) {
  return static_cast<ulong>(static_cast<unsigned __int128>(a) * b >> 64);
}
MSL_FN uint mad24(uint a, uint b, uint c) {
  return (a & 0xFFFFFFu) * (b & 0xFFFFFFu) + c;
}
MSL_FN int mad24(int a, int b, int c) {
  return a * b + c;
}
MSL_FN uint mul24(uint a, uint b) {
  return (a & 0xFFFFFFu) * (b & 0xFFFFFFu);
}
#define MSL_SATURATING(T, W)                                           \
  MSL_FN T addsat(T a, T b) {                                          \
    W r = W(a) + W(b);                                                 \
    W low = numeric_limits<T>::min(), high = numeric_limits<T>::max(); \
    return static_cast<T>(r < low ? low : r > high ? high : r);        \
  }                                                                    \
  MSL_FN T subsat(T a, T b) {                                          \
    W r = W(a) - W(b);                                                 \
    W low = numeric_limits<T>::min(), high = numeric_limits<T>::max(); \
    return static_cast<T>(r < low ? low : r > high ? high : r);        \
  }
MSL_SATURATING(char, int)
MSL_SATURATING(uchar, int)
MSL_SATURATING(short, int)
MSL_SATURATING(ushort, int)
MSL_SATURATING(int, long) MSL_SATURATING(uint, long)
#undef MSL_SATURATING

// ---- packing
MSL_FN float4 unpack_unorm4x8_to_float(uint p) {
  float4 v;
  for (int i = 0; i < 4; ++i) v[i] = static_cast<float>(p >> 8 * i & 255) / 255.0f;
  return v;
}
MSL_FN float4 unpack_snorm4x8_to_float(uint p) {
  float4 v;
  for (int i = 0; i < 4; ++i)
    v[i] = max(static_cast<float>(static_cast<signed char>(p >> 8 * i & 255)) / 127.0f, -1.0f);
  return v;
}
MSL_FN uint pack_float_to_unorm4x8(float4 v) {
  uint p = 0;
  for (int i = 0; i < 4; ++i) p |= static_cast<uint>(__builtin_rintf(scalar::saturate(v[i]) * 255.0f)) << 8 * i;
  return p;
}

}  // namespace metal

// Scalars, vectors, packed vectors, constructors, conversions, limits.
#pragma once

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;

#define MSL_SCALARS(X) X(char) X(uchar) X(short) X(ushort) X(int) X(uint) X(long) X(ulong) X(half) X(bfloat) X(float)
#define MSL_VECTOR_TYPES(T)                           \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
MSL_SCALARS(MSL_VECTOR_TYPES)
#undef MSL_VECTOR_TYPES

namespace metal {

// ---- type traits
template <typename T>
struct remove_cv {
  using type = T;
};
template <typename T>
struct remove_cv<const T> {
  using type = T;
};
template <typename T>
struct remove_cv<volatile T> {
  using type = T;
};
template <typename T>
struct remove_cv<const volatile T> {
  using type = T;
};
template <typename T>
using remove_cv_t = typename remove_cv<T>::type;
template <typename T>
struct remove_reference {
  using type = T;
};
template <typename T>
struct remove_reference<T&> {
  using type = T;
};
template <typename T>
using remove_reference_t = typename remove_reference<T>::type;
template <typename T, T kValue>
struct integral_constant {
  static constexpr T value = kValue;
  using value_type = T;
  constexpr operator T() const { return kValue; }
  constexpr T operator()() const { return kValue; }
};
using true_type = integral_constant<bool, true>;
using false_type = integral_constant<bool, false>;
template <bool kValue>
using bool_constant = integral_constant<bool, kValue>;
template <typename A, typename B>
struct is_same : false_type {};
template <typename A>
struct is_same<A, A> : true_type {};
template <typename A, typename B>
constexpr bool is_same_v = is_same<A, B>::value;
template <bool kYes, typename T = void>
struct enable_if {};
template <typename T>
struct enable_if<true, T> {
  using type = T;
};
template <typename T>
struct remove_addrspace {
  using type = T;
};
template <typename T>
struct remove_addrspace<device T> {
  using type = T;
};
template <typename T>
struct remove_addrspace<threadgroup T> {
  using type = T;
};
#ifndef MSL_TARGET_PTX
template <typename T>
struct remove_addrspace<constant T> {
  using type = const T;
};
#endif
template <typename T>
using remove_addrspace_t = typename remove_addrspace<T>::type;
// A value that is the same in all lanes.
template <typename T>
using uniform = T;
template <typename T>
constexpr T make_uniform(T x) {
  return x;
}
template <bool kYes, typename T = void>
using enable_if_t = typename enable_if<kYes, T>::type;
template <bool kYes, typename A, typename B>
struct conditional {
  using type = A;
};
template <typename A, typename B>
struct conditional<false, A, B> {
  using type = B;
};
template <bool kYes, typename A, typename B>
using conditional_t = typename conditional<kYes, A, B>::type;
template <typename...>
using msl_void_t = void;
template <typename... Ts>
struct disjunction : bool_constant<(Ts::value || ...)> {};
template <typename... Ts>
struct conjunction : bool_constant<(Ts::value && ...)> {};
template <typename T>
struct is_floating_point : bool_constant<is_same_v<remove_cv_t<T>, float> || is_same_v<remove_cv_t<T>, half> ||
                                         is_same_v<remove_cv_t<T>, bfloat>> {};
template <typename T>
constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <typename T>
struct is_integral : bool_constant<__is_integral(T)> {};
template <typename T>
constexpr bool is_integral_v = is_integral<T>::value;
template <typename T>
struct is_arithmetic : bool_constant<is_integral_v<T> || is_floating_point_v<T>> {};
template <typename T>
constexpr bool is_arithmetic_v = is_arithmetic<T>::value;
template <typename T>
struct is_signed : bool_constant<is_floating_point_v<T> || (is_integral_v<T> && T(-1) < T(0))> {};
template <typename T>
constexpr bool is_signed_v = is_signed<T>::value;
template <typename T>
struct is_unsigned : bool_constant<is_integral_v<T> && !is_signed<T>::value> {};
template <typename T>
constexpr bool is_unsigned_v = is_unsigned<T>::value;
template <typename T>
struct is_pointer : false_type {};
template <typename T>
struct is_pointer<T*> : true_type {};
template <typename A, typename B>
struct is_convertible : bool_constant<__is_convertible_to(A, B)> {};
template <typename A, typename B>
constexpr bool is_convertible_v = is_convertible<A, B>::value;
template <typename T>
struct make_unsigned {
  using type = __make_unsigned(T);
};
template <typename T>
using make_unsigned_t = typename make_unsigned<T>::type;

// ---- vectors
template <typename T, int N>
struct msl_vector;
template <typename V>
struct msl_element {
  using type = V;
  static constexpr int count = 1;
};
#define MSL_VECTOR(T, N)            \
  template <>                       \
  struct msl_vector<T, N> {         \
    using type = ::T##N;            \
  };                                \
  template <>                       \
  struct msl_element<::T##N> {      \
    using type = T;                 \
    static constexpr int count = N; \
  };
#define MSL_VECTORS(T)      \
  template <>               \
  struct msl_vector<T, 1> { \
    using type = T;         \
  };                        \
  MSL_VECTOR(T, 2) MSL_VECTOR(T, 3) MSL_VECTOR(T, 4)
MSL_SCALARS(MSL_VECTORS)
#undef MSL_VECTORS
#undef MSL_VECTOR

// A vector of bool, one byte an element; comparisons give int vectors, which convert.
template <int N>
struct msl_bool_vector;
#define MSL_BOOL_VECTOR(N, ...)                                               \
  template <>                                                                 \
  struct msl_element<msl_bool_vector<N>> {                                    \
    using type = bool;                                                        \
    static constexpr int count = N;                                           \
  };                                                                          \
  template <>                                                                 \
  struct msl_bool_vector<N> {                                                 \
    union {                                                                   \
      struct {                                                                \
        bool __VA_ARGS__;                                                     \
      };                                                                      \
      bool e[N];                                                              \
    };                                                                        \
    msl_bool_vector() = default;                                              \
    msl_bool_vector(bool v) {                                                 \
      for (int i = 0; i < N; ++i) e[i] = v;                                   \
    }                                                                         \
    template <typename V, typename = enable_if_t<msl_element<V>::count == N>> \
    msl_bool_vector(V v) {                                                    \
      for (int i = 0; i < N; ++i) e[i] = v[i] != 0;                           \
    }                                                                         \
    template <typename... Bs, enable_if_t<sizeof...(Bs) == N - 1, int> = 0>   \
    msl_bool_vector(bool first, Bs... rest) : e{first, bool(rest)...} {}      \
    bool operator[](int i) const { return e[i]; }                             \
    bool& operator[](int i) { return e[i]; }                                  \
    msl_bool_vector operator!() const {                                       \
      msl_bool_vector r;                                                      \
      for (int i = 0; i < N; ++i) r.e[i] = !e[i];                             \
      return r;                                                               \
    }                                                                         \
    msl_bool_vector operator&(msl_bool_vector o) const {                      \
      for (int i = 0; i < N; ++i) o.e[i] = o.e[i] && e[i];                    \
      return o;                                                               \
    }                                                                         \
    msl_bool_vector operator|(msl_bool_vector o) const {                      \
      for (int i = 0; i < N; ++i) o.e[i] = o.e[i] || e[i];                    \
      return o;                                                               \
    }                                                                         \
    msl_bool_vector operator&&(msl_bool_vector o) const { return *this & o; } \
    msl_bool_vector operator||(msl_bool_vector o) const { return *this | o; } \
  };                                                                          \
  template <>                                                                 \
  struct msl_vector<bool, N> {                                                \
    using type = msl_bool_vector<N>;                                          \
  };
MSL_BOOL_VECTOR(2, x, y)
MSL_BOOL_VECTOR(3, x, y, z)
MSL_BOOL_VECTOR(4, x, y, z, w)
#undef MSL_BOOL_VECTOR
template <>
struct msl_vector<bool, 1> {
  using type = bool;
};

template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));
template <typename V>
using msl_element_t = typename msl_element<V>::type;
template <typename V>
constexpr int msl_count = msl_element<V>::count;
template <typename V>
struct is_vector : bool_constant<(msl_count<V> > 1)> {};
template <typename V>
using msl_if_vector = enable_if_t<(msl_count<V> > 1)>;
// Of an expression, whatever its constness and address space.
template <typename V>
MSL_FN constexpr int msl_count_of(V) {
  return msl_count<V>;
}

// Constructors flatten their arguments; a single scalar fills.
template <typename E, typename A>
MSL_FN constexpr void msl_append(E* out, int& n, A a) {
  if constexpr (msl_count<A> == 1) {
    out[n++] = static_cast<E>(a);
  } else {
    for (int i = 0; i < msl_count<A>; ++i) out[n++] = static_cast<E>(a[i]);
  }
}
template <typename V, typename... As>
MSL_FN V msl_make(As... as) {
  using E = msl_element_t<V>;
  E values[4 * sizeof...(As) + 4] = {};
  int n = 0;
  (msl_append<E>(values, n, as), ...);
  V out;
  for (int i = 0; i < msl_count<V>; ++i) out[i] = n == 1 ? values[0] : values[i];
  return out;
}
// `(float4) x` and `vec<T, 4>(x)` in the source become msl_cast<V>() ->* x.
template <typename V>
struct msl_cast {
  template <typename A>
  MSL_FN constexpr V of(A a) {
    if constexpr (is_same_v<V, bfloat> && is_same_v<A, half> || is_same_v<V, half> && is_same_v<A, bfloat>) {
      return static_cast<V>(static_cast<float>(a));  // clang does not convert between the two
    } else if constexpr (msl_count<V> == 1) {
      return static_cast<V>(a);
    } else {
      return msl_make<V>(a);
    }
  }
};
// `T(x)`, T a template's type, and static_cast<T>(x) become msl_convert<T>(x).
template <typename V, typename A>
MSL_FN constexpr V msl_convert(A a) {
  return msl_cast<V>::of(a);
}
template <typename V, typename A, typename B, typename... As>
MSL_FN constexpr V msl_convert(A a, B b, As... as) {
  if constexpr (msl_count<V> == 1) {
    return V(a, b, as...);
  } else {
    return msl_make<V>(a, b, as...);
  }
}
template <typename V, typename A>
MSL_FN constexpr V operator->*(msl_cast<V>, A a) {
  return msl_cast<V>::of(a);
}
template <typename V, typename W>
struct msl_cast_chain {};
template <typename V, typename W>
MSL_FN msl_cast_chain<V, W> operator->*(msl_cast<V>, msl_cast<W>) {
  return {};
}
template <typename V, typename W, typename A>
MSL_FN constexpr V operator->*(msl_cast_chain<V, W>, A a) {
  return msl_cast<V>::of(msl_cast<W>::of(a));
}

// f({a, b}) in the source becomes f(msl_braces(a, b)), which converts to what f takes.
template <typename... As>
struct msl_braced {
  template <typename T, typename... Bs>
  constexpr T made_of(Bs... parts) const {
    if constexpr (msl_count<T> > 1) {
      return msl_make<T>(parts...);
    } else {
      return T{parts...};
    }
  }
};
template <typename A, typename... As>
struct msl_braced<A, As...> {
  A first;
  msl_braced<As...> rest;
  template <typename T, typename... Bs>
  constexpr T made_of(Bs... parts) const {
    return rest.template made_of<T>(parts..., first);
  }
  // Several parts make no scalar.
  template <typename T, typename = enable_if_t<(sizeof...(As) == 0 || msl_count<T> == sizeof...(As) + 1 ||
                                                !is_arithmetic_v<T> && !is_vector<T>::value)>>
  constexpr operator T() const {
    return made_of<T>();
  }
};
MSL_FN constexpr msl_braced<> msl_braces() {
  return {};
}
template <typename A, typename... As>
MSL_FN constexpr msl_braced<A, As...> msl_braces(A first, As... rest) {
  return {first, msl_braces(rest...)};
}

// An operand of ?: that lies in memory. Of a structure in an address space, its value: C++
// finds no type common to such structures in two spaces.
template <typename T>
struct msl_operand {
  using type = conditional_t<__is_class(T) || __is_array(T) || __is_union(T), T&, remove_cv_t<T>>;
};
#define MSL_OPERAND_IN(SPACE)                                                                                 \
  template <typename T>                                                                                       \
  struct msl_operand<SPACE T> {                                                                               \
    using type = conditional_t<__is_array(T), SPACE T&, remove_cv_t<T>>;                                      \
  };
MSL_OPERAND_IN(device)
MSL_OPERAND_IN(const device)
MSL_OPERAND_IN(threadgroup)
MSL_OPERAND_IN(const threadgroup)
#ifndef MSL_TARGET_PTX
MSL_OPERAND_IN(constant)
#endif
#undef MSL_OPERAND_IN
#define MSL_OPERAND(...) \
  static_cast<typename metal::msl_operand<metal::remove_reference_t<decltype((__VA_ARGS__))>>::type>(__VA_ARGS__)

template <typename To, typename From>
MSL_FN constexpr To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
  return __builtin_bit_cast(To, from);
}

template <typename T, size_t N>
struct array {
  T e[N];
  constexpr T& operator[](size_t i) { return e[i]; }
  constexpr const T& operator[](size_t i) const { return e[i]; }
  static constexpr size_t size() { return N; }
};

template <typename T, int N>
struct packed_vec;
template <typename T, int N>
struct msl_element<packed_vec<T, N>> {
  using type = T;
  static constexpr int count = N;
};

// Elements side by side, aligned as one element.
template <typename T, int N>
struct packed_vec {
  T e[N];
  packed_vec() = default;
  MSL_INLINE packed_vec(vec<T, N> v) {
    for (int i = 0; i < N; ++i) e[i] = v[i];
  }
  MSL_INLINE packed_vec(T v) {
    for (int i = 0; i < N; ++i) e[i] = v;
  }
  template <typename... As, typename = enable_if_t<sizeof...(As) == N - 2>>
  MSL_INLINE packed_vec(T a, T b, As... as) : e{a, b, static_cast<T>(as)...} {}
  MSL_INLINE operator vec<T, N>() const {
    vec<T, N> v;
    for (int i = 0; i < N; ++i) v[i] = e[i];
    return v;
  }
  MSL_INLINE T& operator[](int i) { return e[i]; }
  MSL_INLINE T operator[](int i) const { return e[i]; }
};
#define MSL_PACKED(T)                     \
  using packed_##T##2 = packed_vec<T, 2>; \
  using packed_##T##3 = packed_vec<T, 3>; \
  using packed_##T##4 = packed_vec<T, 4>;
MSL_SCALARS(MSL_PACKED)
#undef MSL_PACKED

// ---- limits
template <typename T>
struct numeric_limits;
#define MSL_INTEGER_LIMITS(T, low, high)                                                    \
  template <>                                                                               \
  struct numeric_limits<T> {                                                                \
    static constexpr T min() { return low; }                                                \
    static constexpr T max() { return high; }                                               \
    static constexpr T lowest() { return low; }                                             \
    static constexpr bool is_integer = true;                                                \
    static constexpr int digits = sizeof(T) * 8 - (static_cast<T>(-1) < static_cast<T>(0)); \
  };
MSL_INTEGER_LIMITS(bool, false, true)
MSL_INTEGER_LIMITS(char, -128, 127)
MSL_INTEGER_LIMITS(signed char, -128, 127)
MSL_INTEGER_LIMITS(uchar, 0, 255)
MSL_INTEGER_LIMITS(short, -32768, 32767)
MSL_INTEGER_LIMITS(ushort, 0, 65535)
MSL_INTEGER_LIMITS(int, -2147483647 - 1, 2147483647)
MSL_INTEGER_LIMITS(uint, 0, 4294967295u)
MSL_INTEGER_LIMITS(long, -9223372036854775807L - 1, 9223372036854775807L)
MSL_INTEGER_LIMITS(ulong, 0, 18446744073709551615UL)
#undef MSL_INTEGER_LIMITS
#define MSL_FLOAT_LIMITS(T, smallest, largest, eps)                  \
  template <>                                                        \
  struct numeric_limits<T> {                                         \
    static constexpr T min() { return (T)smallest; }                 \
    static constexpr T max() { return (T)largest; }                  \
    static constexpr T lowest() { return (T)-largest; }              \
    static constexpr T epsilon() { return (T)eps; }                  \
    static constexpr T infinity() { return (T)__builtin_inff(); }    \
    static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); } \
    static constexpr bool is_integer = false;                        \
  };
MSL_FLOAT_LIMITS(float, __FLT_MIN__, __FLT_MAX__, __FLT_EPSILON__)
MSL_FLOAT_LIMITS(half, 0x1p-14f, 65504.0f, 0x1p-10f)
MSL_FLOAT_LIMITS(bfloat, 0x1p-126f, 0x1.fep127f, 0x1p-7f)
#undef MSL_FLOAT_LIMITS

}  // namespace metal

using metal::vec;  // known everywhere, as the scalars are
using bool2 = metal::msl_bool_vector<2>;
using bool3 = metal::msl_bool_vector<3>;
using bool4 = metal::msl_bool_vector<4>;
using metal::packed_char4;
using metal::packed_float2;
using metal::packed_float3;
using metal::packed_float4;
using metal::packed_half2;
using metal::packed_half3;
using metal::packed_half4;
using metal::packed_int2;
using metal::packed_int3;
using metal::packed_int4;
using metal::packed_short2;
using metal::packed_short4;
using metal::packed_uchar2;
using metal::packed_uchar3;
using metal::packed_uchar4;
using metal::packed_uint2;
using metal::packed_uint3;
using metal::packed_uint4;
using metal::packed_ushort2;
using metal::packed_ushort4;

constexpr half operator""h(long double v) {
  return static_cast<half>(v);
}
constexpr half operator""h(unsigned long long v) {
  return static_cast<half>(v);
}
constexpr half operator"" H(long double v) {
  return static_cast<half>(v);
}
constexpr half operator"" H(unsigned long long v) {
  return static_cast<half>(v);
}
constexpr bfloat operator"" bf(long double v) {
  return static_cast<bfloat>(static_cast<float>(v));
}
constexpr bfloat operator"" BF(long double v) {
  return static_cast<bfloat>(static_cast<float>(v));
}

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define HUGE_VALH ((half)__builtin_inff())
#define MAXFLOAT __FLT_MAX__
#define MAXHALF ((half)65504.0f)
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define HALF_MAX ((half)65504.0f)
#define HALF_MIN ((half)0x1p-14f)
#define HALF_EPSILON ((half)0x1p-10f)
#define CHAR_BIT 8
#define UCHAR_MAX 255
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define SCHAR_MAX 127
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807L
#define ULONG_MAX 18446744073709551615UL
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.434294481903251827651f
#define M_LN2_F 0.693147180559945309417f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.785398163397448309616f
#define M_1_PI_F 0.318309886183790671538f
#define M_2_PI_F 0.636619772367581343076f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.707106781186547524401f
#define M_PI_H ((half)M_PI_F)

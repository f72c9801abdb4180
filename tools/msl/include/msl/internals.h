// Names that Metal's own headers use inside. They are no part of the language, but
// kernels that add functions of bfloat call them (MLX).
#pragma once

namespace metal {
template <typename... Bs>
struct _disjunction : disjunction<Bs...> {};
}  // namespace metal

#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 0
#define __METAL_MAYBE_FAST_MATH__ __METAL_PRECISE_MATH__

#define MSL_INTERNAL_MATH(name)                              \
  template <typename T>                                      \
  MSL_FN T __metal_##name(T x, int fast) {                   \
    return fast ? metal::fast::name(x) : metal::name(x);     \
  }
MSL_UNARY_FLOAT_FUNCTIONS(MSL_INTERNAL_MATH)
MSL_INTERNAL_MATH(exp2)
#undef MSL_INTERNAL_MATH
// The last argument may be the mode.
#define MSL_INTERNAL_BINARY(name)                  \
  template <typename T>                            \
  MSL_FN T __metal_##name(T x, T y, int = 0) {     \
    return metal::name(x, y);                      \
  }
MSL_INTERNAL_BINARY(pow)
MSL_INTERNAL_BINARY(powr)
MSL_INTERNAL_BINARY(fmod)
MSL_INTERNAL_BINARY(atan2)
MSL_INTERNAL_BINARY(divide)
MSL_INTERNAL_BINARY(fmin)
MSL_INTERNAL_BINARY(fmax)
MSL_INTERNAL_BINARY(nextafter)
#undef MSL_INTERNAL_BINARY
template <typename T>
MSL_FN T __metal_fmin3(T x, T y, T z, int = 0) {
  return metal::fmin3(x, y, z);
}
template <typename T>
MSL_FN T __metal_fmax3(T x, T y, T z, int = 0) {
  return metal::fmax3(x, y, z);
}
template <typename T>
MSL_FN T __metal_fmedian3(T x, T y, T z, int = 0) {
  return metal::fmedian3(x, y, z);
}
template <typename T>
MSL_FN T __metal_fma(T x, T y, T z) {
  return metal::fma(x, y, z);
}
template <typename T>
MSL_FN T __metal_ldexp(T x, int k, int = 0) {
  return metal::ldexp(x, k);
}
#ifndef MSL_TARGET_AIR
template <typename T>
MSL_FN T __metal_frexp(T x, thread int* exponent) {
  return metal::frexp(x, *exponent);
}
#endif

#define MSL_INTERNAL_SIMD(name)                      \
  template <typename... A>                           \
  MSL_FN MSL_SYNC auto __metal_simd_##name(A... a) { \
    return metal::simd_##name(a...);                 \
  }
MSL_INTERNAL_SIMD(sum)
MSL_INTERNAL_SIMD(product)
MSL_INTERNAL_SIMD(min)
MSL_INTERNAL_SIMD(max)
MSL_INTERNAL_SIMD(prefix_inclusive_sum)
MSL_INTERNAL_SIMD(prefix_inclusive_product)
MSL_INTERNAL_SIMD(prefix_exclusive_sum)
MSL_INTERNAL_SIMD(prefix_exclusive_product)
MSL_INTERNAL_SIMD(broadcast)
MSL_INTERNAL_SIMD(shuffle)
MSL_INTERNAL_SIMD(shuffle_up)
MSL_INTERNAL_SIMD(shuffle_down)
MSL_INTERNAL_SIMD(shuffle_xor)
MSL_INTERNAL_SIMD(shuffle_rotate_up)
MSL_INTERNAL_SIMD(shuffle_rotate_down)
MSL_INTERNAL_SIMD(shuffle_and_fill_up)
MSL_INTERNAL_SIMD(shuffle_and_fill_down)
#undef MSL_INTERNAL_SIMD
template <typename T>
MSL_FN MSL_SYNC T __metal_simd_xor(T x) {
  if constexpr (metal::is_same_v<T, float>) {
    return metal::as_type<float>(metal::simd_xor(metal::as_type<uint>(x)));
  } else {
    return metal::simd_xor(x);
  }
}
MSL_FN ushort __metal_get_simdgroup_size(ushort) {
  return 32;
}
MSL_FN ushort __metal_get_thread_index_in_simdgroup(ushort) {
  return static_cast<ushort>(metal::msl_lane());
}

// Address spaces, keywords and function attributes, by target and mode.
//   MSL_TARGET_PTX   NVIDIA's virtual machine; otherwise the host's processor
//   MSL_TARGET_AIR   what Apple's compiler makes: address spaces by number, calls of AIR's functions
//   MSL_PLAIN_SPACES address spaces by number: the second of the strict checks
//   MSL_STRICT       only whether Apple's compiler would take it matters
//   MSL_INSTRUMENTED memory accesses are reported to the executor
#pragma once

#define __METAL__ 1
#define __METAL_MACOS__ 1
#define __HAVE_BFLOAT__ 1
#define __METAL_MARLIN_HOST_TOOLCHAIN__ 1
#include "../msl_abi.h"

#if defined(MSL_PLAIN_SPACES) || defined(MSL_TARGET_AIR)
#define MSL_DEVICE __attribute__((address_space(1)))
#define MSL_CONSTANT const __attribute__((address_space(2)))
#define MSL_THREADGROUP __attribute__((address_space(3)))
#elif defined(MSL_TARGET_PTX)
#define MSL_DEVICE __attribute__((opencl_global))
#define MSL_CONSTANT const
#define MSL_THREADGROUP __attribute__((opencl_local))
#else
#define MSL_DEVICE __attribute__((opencl_global))
#define MSL_CONSTANT const __attribute__((opencl_global_device))
#define MSL_THREADGROUP __attribute__((opencl_local))
#endif

#define device MSL_DEVICE
#define constant MSL_CONSTANT
#define threadgroup MSL_THREADGROUP
#define thread
#define kernel
#define coherent(scope)
#ifdef MSL_STRICT  // calls stay, so that what a shader calls can be told
#define MSL_INLINE inline
#else
#define MSL_INLINE inline __attribute__((always_inline))
#endif
#define METAL_FUNC MSL_INLINE

#define MSL_FN static MSL_INLINE
// Calls that threads of a simdgroup or threadgroup make together.
#define MSL_SYNC __attribute__((convergent))

#ifdef MSL_TARGET_PTX
#define MSL_THREADGROUP_VARIABLE(name, dims, ...)                                                          \
  typedef __VA_ARGS__ name##_msl_type dims;                                                                \
  static threadgroup __attribute__((aligned(16))) unsigned char name##_msl_bytes[sizeof(name##_msl_type)]; \
  threadgroup name##_msl_type& name = *(threadgroup name##_msl_type*)name##_msl_bytes
#elif defined(MSL_TARGET_AIR)
#define MSL_THREADGROUP_VARIABLE(name, dims, ...) \
  typedef __VA_ARGS__ name##_msl_type dims;       \
  static threadgroup typename msl_plain<name##_msl_type>::type name##_msl_memory; \
  threadgroup name##_msl_type& name = (threadgroup name##_msl_type&)name##_msl_memory
// C++ makes no object of a class in an address space: words of its alignment are there instead.
template <unsigned long kAlignment>
struct msl_aligned_word;
template <>
struct msl_aligned_word<1> { using type = unsigned char; };
template <>
struct msl_aligned_word<2> { using type = unsigned short; };
template <>
struct msl_aligned_word<4> { using type = unsigned; };
template <>
struct msl_aligned_word<8> { using type = unsigned long; };
template <>
struct msl_aligned_word<16> { using type = unsigned __attribute__((ext_vector_type(4))); };
template <typename T, bool kClass = __is_class(__remove_all_extents(T)) || __is_union(__remove_all_extents(T))>
struct msl_plain {
  using type = T;
};
template <typename T>
struct msl_plain<T, true> {
  using type = typename msl_aligned_word<alignof(T)>::type[sizeof(T) / alignof(T)];
};
#else
extern "C" void* msl_threadgroup_variable(const MslThreadgroupVariable*);
#define MSL_THREADGROUP_VARIABLE(name, dims, ...)                                                                \
  typedef __VA_ARGS__ name##_msl_type dims;                                                                      \
  static const MslThreadgroupVariable name##_msl_variable = {#name, __FILE__, __LINE__, sizeof(name##_msl_type), \
                                                             alignof(name##_msl_type)};                          \
  threadgroup name##_msl_type& name = *(threadgroup name##_msl_type*)msl_threadgroup_variable(&name##_msl_variable)
#endif

// ---- function constants: set by the host before a pipeline runs
#ifdef MSL_TARGET_AIR
// A variable of another file, whose name tells index and type, and a copy that a static initialiser makes.
#define MSL_FUNCTION_CONSTANT(name, label, slot, ...)         \
  extern constant __VA_ARGS__ name##_msl_value __asm__(label); \
  static constant __VA_ARGS__ name = name##_msl_value
bool msl_is_defined(constant void*) __asm__("air.is_function_constant_defined");
#define is_function_constant_defined(name) msl_is_defined(&name##_msl_value)
#else
#define MSL_FUNCTION_CONSTANT(name, label, slot, ...) static const msl_function_constant<__VA_ARGS__, slot> name{}
#define is_function_constant_defined(name) (name).defined()
#ifdef MSL_TARGET_PTX
extern "C" __attribute__((used, opencl_global)) MslConstantValues msl_constant_values;
__attribute__((used, opencl_global)) MslConstantValues msl_constant_values = {};
#else
static MslConstantValues msl_constant_values;
#endif
template <typename T, int kIndex>
struct msl_function_constant {
  static_assert(sizeof(T) <= 16 && kIndex < kMslMaxConstants, "function constant");
  operator T() const {
    T v;
    for (unsigned i = 0; i < sizeof(T); ++i) ((unsigned char*)&v)[i] = msl_constant_values.value[kIndex][i];
    return v;
  }
  bool defined() const { return msl_constant_values.defined[kIndex] != 0; }
};
#endif

// Address spaces, keywords and function attributes, by target and mode.
//   MSL_TARGET_PTX   NVIDIA's virtual machine; otherwise the host's processor
//   MSL_PLAIN_SPACES address spaces by number: the second of the strict checks
//   MSL_STRICT       only whether Apple's compiler would take it matters
//   MSL_INSTRUMENTED memory accesses are reported to the executor
#pragma once

#define __METAL__ 1
#define __METAL_MACOS__ 1
#define __HAVE_BFLOAT__ 1
#define __METAL_MARLIN_HOST_TOOLCHAIN__ 1
#include "../msl_abi.h"

#if defined(MSL_PLAIN_SPACES)
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
#else
extern "C" void* msl_threadgroup_variable(const MslThreadgroupVariable*);
#define MSL_THREADGROUP_VARIABLE(name, dims, ...)                                                                \
  typedef __VA_ARGS__ name##_msl_type dims;                                                                      \
  static const MslThreadgroupVariable name##_msl_variable = {#name, __FILE__, __LINE__, sizeof(name##_msl_type), \
                                                             alignof(name##_msl_type)};                          \
  threadgroup name##_msl_type& name = *(threadgroup name##_msl_type*)msl_threadgroup_variable(&name##_msl_variable)
#endif

// ---- function constants: set by the host before a pipeline runs
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
#define is_function_constant_defined(name) (name).defined()

// What a compiled shader library and the host executor know of each other.
// Plain C layout: the shader side is compiled by clang, the host side by any compiler.
#pragma once

#ifdef __METAL_MARLIN_HOST_TOOLCHAIN__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
typedef __SIZE_TYPE__ size_t;
typedef unsigned long uintptr_t;
typedef long intptr_t;
#else
#include <stddef.h>
#include <stdint.h>
#endif

enum { kMslAbiVersion = 2, kMslMaxConstants = 256 };

// What an argument of a kernel is bound to.
enum MslArgumentKind { kMslBuffer, kMslThreadgroup, kMslBuiltin };

// Positions and sizes that the executor fills in, in the order of MslThread.
enum MslBuiltin {
  kMslThreadPositionInGrid,
  kMslThreadPositionInThreadgroup,
  kMslThreadgroupPositionInGrid,
  kMslThreadsPerThreadgroup,
  kMslThreadsPerGrid,
  kMslThreadgroupsPerGrid,
  kMslDispatchThreadsPerThreadgroup,
  kMslGridOrigin,
  kMslThreadIndexInThreadgroup,
  kMslThreadIndexInSimdgroup,
  kMslSimdgroupIndexInThreadgroup,
  kMslThreadsPerSimdgroup,
  kMslSimdgroupsPerThreadgroup,
  kMslThreadIndexInQuadgroup,
  kMslQuadgroupIndexInThreadgroup,
  kMslQuadgroupsPerThreadgroup,
  kMslThreadExecutionWidth,
  kMslBuiltinCount
};

struct MslArgument {
  const char* name;
  const char* type;    // as written
  uint8_t kind;        // MslArgumentKind
  uint8_t read_only;   // constant, or a pointer to const
  uint8_t by_value;    // a `constant` reference: its bytes are given, not a buffer
  uint8_t optional;    // depends on a function constant
  uint32_t index;      // of the buffer or threadgroup allocation, or MslBuiltin
  uint32_t size;       // of an element
  uint32_t alignment;  // of an element
};

// One thread of a grid: what its kernel is called with.
struct MslThread {
  void* const* buffers;
  void* const* threadgroups;
  uint32_t builtins[kMslBuiltinCount][3];
};

struct MslKernel {
  const char* name;
  void (*entry)(const struct MslThread*);
  const struct MslArgument* arguments;
  uint32_t argument_count;
  uint32_t max_threads;      // max_total_threads_per_threadgroup, 0 for none
  const uint8_t* constants;  // by place in the library's list: whether the kernel uses it
};

struct MslFunctionConstant {
  const char* name;
  const char* type;
  uint32_t index;
  uint32_t size;
};

// By place in the library's list of constants, not by index.
struct MslConstantValues {
  uint8_t value[kMslMaxConstants][16];
  uint8_t defined[kMslMaxConstants];
};

struct MslLibrary {
  uint32_t abi_version;
  uint32_t instrumented;  // loads and stores call the executor
  const struct MslKernel* kernels;
  uint32_t kernel_count;
  uint32_t constant_count;
  const struct MslFunctionConstant* constants;
  struct MslConstantValues* values;
};

// A threadgroup variable: one address a threadgroup, whoever asks.
struct MslThreadgroupVariable {
  const char* name;
  const char* file;
  uint32_t line;
  uint32_t size;
  uint32_t alignment;
};

struct MslPlace {
  const char* file;
  uint32_t line;
};

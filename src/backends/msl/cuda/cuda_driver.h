// The part of NVIDIA's CUDA driver API that we use, loaded at run time, so that a
// program built without CUDA runs where there is none. Names and numbers are the
// driver's own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_marlin::msl::cuda {

using Result = int;  // 0: success
using DeviceId = int;
using DevicePointer = std::uint64_t;
using Context = struct ContextOpaque*;
using Module = struct ModuleOpaque*;
using Function = struct FunctionOpaque*;
using Stream = struct StreamOpaque*;
using Event = struct EventOpaque*;
using Graph = struct GraphOpaque*;
using GraphExec = struct GraphExecOpaque*;

constexpr int kMultiprocessorCount = 16;  // device attributes
constexpr int kIntegrated = 18;
constexpr int kMaxSharedBytesOptIn = 97;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kJitErrorLog = 5;
constexpr int kJitErrorLogBytes = 6;
constexpr int kCaptureThreadLocal = 1;
constexpr unsigned kStreamNonBlocking = 1;
constexpr int kMaxDynamicSharedBytes = 8;      // function attribute
constexpr int kProgrammaticSerialization = 6;  // launch attribute

struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int value;
  };
};
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};

struct Driver {
  Result (*init)(unsigned);
  Result (*device_get)(DeviceId*, int);
  Result (*device_get_count)(int*);
  Result (*device_get_name)(char*, int, DeviceId);
  Result (*device_get_attribute)(int*, int, DeviceId);
  Result (*primary_context_retain)(Context*, DeviceId);
  Result (*context_set_current)(Context);
  Result (*mem_get_info)(std::size_t* free, std::size_t* total);
  Result (*mem_alloc)(DevicePointer*, std::size_t);
  Result (*mem_free)(DevicePointer);
  Result (*mem_host_alloc)(void**, std::size_t, unsigned);
  Result (*mem_free_host)(void*);
  Result (*copy_to_device)(DevicePointer, const void*, std::size_t);
  Result (*copy_to_host)(void*, DevicePointer, std::size_t);
  Result (*copy_to_device_async)(DevicePointer, const void*, std::size_t, Stream);
  Result (*copy_to_host_async)(void*, DevicePointer, std::size_t, Stream);
  Result (*copy_on_device_async)(DevicePointer, DevicePointer, std::size_t, Stream);
  Result (*module_load_data)(Module*, const void*, unsigned, const int*, void**);
  Result (*module_unload)(Module);
  Result (*module_get_function)(Function*, Module, const char*);
  Result (*module_get_global)(DevicePointer*, std::size_t*, Module, const char*);
  Result (*function_set_attribute)(Function, int, int);
  Result (*launch_kernel)(const LaunchConfig*, Function, void**, void**);
  Result (*stream_create)(Stream*, unsigned);
  Result (*stream_destroy)(Stream);
  Result (*stream_synchronize)(Stream);
  Result (*stream_begin_capture)(Stream, int);
  Result (*stream_end_capture)(Stream, Graph*);
  Result (*graph_instantiate)(GraphExec*, Graph, unsigned long long);
  Result (*graph_launch)(GraphExec, Stream);
  Result (*graph_destroy)(Graph);
  Result (*graph_exec_destroy)(GraphExec);
  Result (*event_create)(Event*, unsigned);
  Result (*event_destroy)(Event);
  Result (*event_record)(Event, Stream);
  Result (*event_elapsed)(float*, Event, Event);
  Result (*error_string)(Result, const char**);
};

// Null where there is no driver or no device.
const Driver* find_driver();
// The same. \throws Error (kUnsupported) saying what is missing.
const Driver& require_driver();
// \throws Error (kInternal) naming what failed.
void check(Result result, const char* what);

}  // namespace metal_marlin::msl::cuda

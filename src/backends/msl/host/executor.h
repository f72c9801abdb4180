// Runs compiled shaders on the host's processor: a fiber for each thread of a
// threadgroup, one threadgroup a worker at a time, workers side by side. The
// result does not depend on the number of workers, but for the order of atomics.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "msl_abi.h"

namespace metal_marlin::msl {

using Size3 = std::array<std::uint32_t, 3>;

constexpr std::uint32_t kSimdWidth = 32;
constexpr std::uint32_t kMaxThreads = 1024;                // in a threadgroup
constexpr std::uint32_t kMaxThreadgroupMemory = 32 << 10;  // bytes, Metal's limit

// In which order the threads that may run are run.
enum class LaneOrder : std::uint8_t { kForward, kReverse, kRandom };

// What the detectors of an instrumented shader found.
enum class FaultKind : std::uint8_t {
  kRace,
  kOutOfBounds,
  kUninitialised,
  kBarrierDivergence,
  kThreadgroupMemory,
  kMisaligned,
};
const char* fault_name(FaultKind kind);

struct Fault {
  FaultKind kind;
  std::string message;
};

struct HostMemory {
  std::byte* data = nullptr;
  std::size_t size = 0;
  std::string name;  // for messages
};

struct HostDispatch {
  const MslKernel* kernel = nullptr;
  Size3 threads{};                          // of the whole grid
  Size3 threadgroup{};                      // of one full threadgroup
  std::vector<HostMemory> buffers;          // by index
  std::vector<std::uint32_t> threadgroups;  // bytes of dynamic threadgroup memory, by index
  bool instrumented = false;
  LaneOrder order = LaneOrder::kForward;
  std::uint64_t seed = 0;  // of kRandom
  // Lane i holds what lane i ^ mask holds of an 8x8 matrix on Apple's GPUs.
  std::uint32_t matrix_lane_mask = 0;
  bool flush_subnormals = false;  // of halves that 8x8 matrices are multiplied from
  int workers = 1;
};

// What stopped the grid first, if something did. Without instrumentation only
// threadgroup memory is checked.
std::optional<Fault> run_on_host(const HostDispatch& dispatch);

}  // namespace metal_marlin::msl

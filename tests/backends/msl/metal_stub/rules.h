// The rules that the stand-in for Metal holds a device to, and what it stands in for.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace metal_stub {

enum class Rule : std::uint8_t {
  kEncoderLife,       // one encoder open at a time, ended before commit and before it is let go
  kCommandBuffer,     // committed once, nothing encoded after
  kArgument,          // every argument that reflection names is bound, as what it is
  kBufferIndex,       // Metal Feature Set Tables: 31 entries of the buffer argument table
  kInlineBytes,       // setBytes takes less than 4 KB or 4 KB
  kThreadgroupBytes,  // Metal Feature Set Tables: 32 KB of threadgroup memory, allocated by 16 bytes
  kOffset,            // setBuffer: a multiple of the type's alignment; in constant space of 4 at least on Apple GPUs
  kThreads,           // no more than maxTotalThreadsPerThreadgroup
  kBarrier,           // a concurrent encoder orders nothing by itself
  kFence,             // untracked resources: nothing orders encoders but a fence, or waiting on the processor
  kPool,              // objects that Metal leaves to the thread's pool need one
  kLeak,
  kOverRelease,
  kUseAfterRelease,
  kFreedInFlight,  // unretained references: what a command buffer uses lives until it is completed
  kResidency,      // buffers in use are in a residency set of the queue
  kConstant,       // function constants have values
  kWork,           // command buffers are short
  kMemory,         // buffers of 1 byte to maxBufferLength, within the recommended working set
  kCompile,        // as the shaders want to be compiled
  kAvailable,      // on the version of macOS that runs
  kExecution,      // what the host executor found
};
const char* rule_name(Rule rule);

// Makes the test fail, or tells those who expect it.
void report(Rule rule, const std::string& what);

// While one of these is there violations are kept instead of failing the test.
class Expected {
 public:
  Expected();
  ~Expected();
  Expected(const Expected&) = delete;
  Expected& operator=(const Expected&) = delete;
  // As "rule: what".
  [[nodiscard]] std::vector<std::string> found() const;
};

// The Mac that is stood in for. Every test begins with this one.
struct Machine {
  int macos = 15;
  struct Gpu {
    std::string name = "Apple M0 (recorded)";
    bool apple7 = true;
  };
  std::vector<Gpu> gpus{Gpu{}};
  int cores = 10;  // in the I/O registry; 0: it does not say
  std::size_t largest_buffer = std::size_t{1} << 30;
  std::size_t working_set = std::size_t{4} << 30;
  std::size_t most_work = 0;                        // of a command buffer with more than one dispatch; 0: any
  int most_threads = 1024;                          // in a threadgroup
  std::map<std::string, std::size_t> static_bytes;  // of threadgroup memory by kernel: what reflection does not tell
  int throws_at = 0;                                // the dispatch, from 1, that throws std::bad_alloc; 0: none
  std::string next_error;                           // what the next command buffer fails with; empty: it runs
};
Machine& machine();

// What a device did since the test began.
struct Counts {
  int command_buffers = 0;
  int dispatches = 0;
  int barriers = 0;
  int live_buffers = 0;
};
Counts& counts();

// One call at a time.
std::recursive_mutex& mutex();
using Lock = std::lock_guard<std::recursive_mutex>;

// How many there are, by type.
std::map<std::string, int> live_objects();

// The end of a test: reports what it left, and begins anew.
void end_of_test();

}  // namespace metal_stub

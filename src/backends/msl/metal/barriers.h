// Which dispatches of an encoder that runs them side by side must wait for those before them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace metal_marlin::msl::metal {

// Bytes of one allocation that a dispatch reads, or reads and writes.
struct Access {
  const void* allocation;
  std::size_t begin;
  std::size_t end;
  bool writes;
};

class Hazards {
 public:
  // Whether a dispatch with these accesses must wait for one that it has not waited for yet: the same
  // bytes, written by either. It counts as begun, after a barrier where one was needed.
  bool must_wait(std::span<const Access> accesses);
  // All that has begun is waited for in another way.
  void clear() { begun_.clear(); }

 private:
  std::vector<Access> begun_;  // since the last barrier
};

}  // namespace metal_marlin::msl::metal

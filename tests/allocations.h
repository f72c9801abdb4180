// What `new` is asked for.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_marlin {

// Calls of any thread's operator new so far. Sanitizers count for themselves: there it stays 0.
std::int64_t allocations();

// Bytes that this process has allocated and not freed, with what the allocator takes for itself.
std::size_t allocated_bytes();

}  // namespace metal_marlin

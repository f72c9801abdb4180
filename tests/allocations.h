// What `new` is asked for.
#pragma once

#include <cstdint>

namespace metal_marlin {

// Calls of any thread's operator new so far. Sanitizers count for themselves: there it stays 0.
std::int64_t allocations();

}  // namespace metal_marlin

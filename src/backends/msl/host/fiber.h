// A switch between stacks of one operating-system thread: what the ABI makes a
// callee preserve, nothing else.
#pragma once

#include <cstddef>

namespace metal_marlin::msl {

// Saves this context to *from and goes on in `to`.
extern "C" void metal_marlin_switch_fiber(void** from, void* to);

// A context that calls entry(argument) on the stack that ends at `top`; entry
// must not return.
void* prepare_fiber(void* top, void (*entry)(void*), void* argument);

}  // namespace metal_marlin::msl

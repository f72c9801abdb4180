// A launch that begins while the one before it ends (programmatic dependent launch, NVIDIA only).
// A kernel that waits for the earlier ones is launched so; before it has waited it may read only
// what no kernel writes, weights.
#pragma once
#include <metal_stdlib>

using namespace metal;

#ifdef __METAL_MARLIN_PTX__
METAL_FUNC void wait_for_earlier_kernels() {
  msl_dependency_wait();
}
METAL_FUNC void let_later_kernels_start() {
  msl_dependency_launch();
}
#else
METAL_FUNC void wait_for_earlier_kernels() {}
METAL_FUNC void let_later_kernels_start() {}
#endif

// For kernels that are short, and leave room on a core.
METAL_FUNC void follow_earlier_kernels() {
  wait_for_earlier_kernels();
  let_later_kernels_start();
}

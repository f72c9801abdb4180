// The vectors come first, the kernels are written over them.
// clang-format off
#include "backends/cpu/simd_neon.h"
#include "backends/cpu/kernels_impl.h"
// clang-format on

namespace metal_marlin::cpu {

extern const Kernels kNeonKernels;
const Kernels kNeonKernels = make_kernels("neon");

}  // namespace metal_marlin::cpu

#include "backends/cpu/kernels_impl.h"
#include "backends/cpu/simd_neon.h"

namespace metal_marlin::cpu {

extern const Kernels kNeonKernels;
const Kernels kNeonKernels = make_kernels("neon");

}  // namespace metal_marlin::cpu

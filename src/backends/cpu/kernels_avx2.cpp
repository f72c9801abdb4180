// The vectors come first, the kernels are written over them.
// clang-format off
#include "backends/cpu/simd_avx2.h"
#include "backends/cpu/kernels_impl.h"
// clang-format on

namespace metal_marlin::cpu {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = make_kernels("avx2");

}  // namespace metal_marlin::cpu

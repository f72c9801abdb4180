// The vectors come first, the kernels are written over them.
// clang-format off
#include "backends/cpu/simd_avx512.h"
#include "backends/cpu/kernels_impl.h"
// clang-format on

namespace metal_marlin::cpu {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = make_kernels("avx512");

}  // namespace metal_marlin::cpu

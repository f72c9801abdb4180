#include "backends/cpu/kernels_impl.h"
#include "backends/cpu/simd_avx2.h"

namespace metal_marlin::cpu {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = make_kernels("avx2");

}  // namespace metal_marlin::cpu

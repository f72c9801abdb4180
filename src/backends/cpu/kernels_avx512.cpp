#include "backends/cpu/kernels_impl.h"
#include "backends/cpu/simd_avx512.h"

namespace metal_marlin::cpu {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = make_kernels("avx512");

}  // namespace metal_marlin::cpu

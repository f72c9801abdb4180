#include "backends/cpu/kernels_impl.h"
#include "backends/cpu/simd_plain.h"

namespace metal_marlin::cpu {

extern const Kernels kPlainKernels;
const Kernels kPlainKernels = make_kernels("plain");

}  // namespace metal_marlin::cpu

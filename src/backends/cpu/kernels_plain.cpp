// The vectors come first, the kernels are written over them.
// clang-format off
#include "backends/cpu/simd_plain.h"
#include "backends/cpu/kernels_impl.h"
// clang-format on

namespace metal_marlin::cpu {

extern const Kernels kPlainKernels;
const Kernels kPlainKernels = make_kernels("plain");

}  // namespace metal_marlin::cpu

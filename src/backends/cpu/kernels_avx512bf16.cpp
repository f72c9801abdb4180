// The vectors come first, the kernels are written over them.
// clang-format off
#include "backends/cpu/simd_avx512.h"
#include "backends/cpu/kernels_impl.h"
// clang-format on

namespace metal_marlin::cpu {

extern const Kernels kAvx512Bf16Kernels;
const Kernels kAvx512Bf16Kernels = make_kernels("avx512bf16");

}  // namespace metal_marlin::cpu

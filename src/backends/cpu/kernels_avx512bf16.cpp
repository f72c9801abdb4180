// The vectors come first, the kernels are written over them.
// clang-format off
#include "backends/cpu/simd_avx512.h"
#include "backends/cpu/kernels_impl.h"
// clang-format on

namespace metal_marlin::cpu {

extern const Kernels kAvx512Kernels;

namespace {

// AVX-512's table with what BF16 adds.
Kernels with_bf16(Kernels table) {
  table.name = "avx512bf16";
  table.linear_bf16 = linear<LinearInput::kBf16>;
  table.round_bf16 = round_bf16;
  return table;
}

}  // namespace

extern const Kernels kAvx512Bf16Kernels;
const Kernels kAvx512Bf16Kernels = with_bf16(kAvx512Kernels);

}  // namespace metal_marlin::cpu

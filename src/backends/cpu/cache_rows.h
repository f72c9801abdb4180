// Tokens into pages of the cache, also into quantized ones.
#pragma once

#include <cstddef>

#include "backends/cpu/kernels.h"

namespace metal_marlin::cpu {

// Puts a token's key and value (not read where latent) into slot `slot` of a page.
void store_token(const Kernels& kernels, const CachePage& layout, const float* k, const float* v, int slot,
                 std::byte* page);

}  // namespace metal_marlin::cpu

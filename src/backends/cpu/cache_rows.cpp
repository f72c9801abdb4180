#include "backends/cpu/cache_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/codec.h"
#include "formats/small_floats.h"

namespace metal_marlin::cpu {
namespace {

float largest_code(CacheType type) {
  switch (type) {
    case CacheType::kFp8: return 448;
    case CacheType::kInt8: return 127;
    case CacheType::kInt4: return 7;
    default: return 6;
  }
}

unsigned code_of(CacheType type, float v) {
  switch (type) {
    case CacheType::kFp8: return encode(Format::kFp8E4M3, v);
    case CacheType::kInt8: return static_cast<unsigned>(static_cast<int>(std::nearbyint(v))) & 0xFFU;
    case CacheType::kInt4: return static_cast<unsigned>(static_cast<int>(std::nearbyint(v))) & 0xFU;
    default: return encode(Format::kFp4, v);
  }
}

// As store() in shaders/common/cache_rows.h.
void store_codes(CacheType type, const float* x, int width, std::byte* row) {
  auto* const codes = reinterpret_cast<std::uint8_t*>(row);
  std::byte* const scales = row + cache_scales_at(type, width);
  const float limit = largest_code(type);
  for (int begin = 0; begin < width; begin += kCacheGroup) {
    const int end = std::min(begin + kCacheGroup, width);
    float top = 0;
    for (int i = begin; i < end; ++i) top = std::max(top, std::fabs(x[i]));
    const std::uint16_t half = f32_to_f16(top / limit);
    std::memcpy(scales + begin / kCacheGroup * 2, &half, sizeof(half));
    const float scale = f16_to_f32(half);
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (int i = begin; i < end; ++i) {
      const unsigned code = code_of(type, std::clamp(x[i] * inverse, -limit, limit));
      if (cache_code_bits(type) == 8) {
        codes[i] = static_cast<std::uint8_t>(code);
      } else if (i % 2 == 0) {
        codes[i / 2] = static_cast<std::uint8_t>(code);
      } else {
        codes[i / 2] = static_cast<std::uint8_t>(codes[i / 2] | code << 4);
      }
    }
  }
}

}  // namespace

void store_token(const Kernels& kernels, const CachePage& layout, const float* k, const float* v, int slot,
                 std::byte* page) {
  if (!is_quantized(layout.type)) return kernels.store_kv(layout, k, v, slot, page);
  const std::size_t key_bytes = cache_row_bytes(layout.type, layout.key_dim);
  store_codes(layout.type, k, layout.key_dim, page + static_cast<std::size_t>(slot) * key_bytes);
  if (layout.latent) return;
  const std::size_t value_bytes = cache_row_bytes(layout.type, layout.value_dim);
  store_codes(layout.type, v, layout.value_dim,
              page + kCachePageTokens * key_bytes + static_cast<std::size_t>(slot) * value_bytes);
}

}  // namespace metal_marlin::cpu

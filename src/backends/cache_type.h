// What a cache holds keys and values in.
#pragma once

#include <cstdint>
#include <string_view>

namespace metal_marlin {

// Positions a page of the cache holds.
constexpr int kCachePageTokens = 16;

// The last four: codes with an f16 scale, the largest magnitude over that of a code, for each 32 elements
// of a head's key or value.
enum class CacheType : std::uint8_t { kF16, kF32, kFp8, kInt8, kInt4, kFp4 };

// Not inline: the kernels' files, compiled for several processors, must not share it.
[[maybe_unused]] static constexpr bool is_quantized(CacheType type) {
  return type != CacheType::kF16 && type != CacheType::kF32;
}

// "f16", "f32", "fp8" (E4M3), "int8", "int4", "fp4" (E2M1).
// \throws Error (kInvalidArgument) naming them.
CacheType parse_cache_type(std::string_view name);
std::string_view cache_type_name(CacheType type);

}  // namespace metal_marlin

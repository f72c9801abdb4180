// What a cache holds keys and values in.
#pragma once

#include <cstdint>
#include <string_view>

namespace metal_marlin {

// Positions a page of the cache holds.
constexpr int kCachePageTokens = 16;

// From kFp8 to kFp4: codes with an f16 scale, the largest magnitude over that of a code, for each 32 elements
// of a head's key or value. kBf16: for shaders alone, no model's cache is kept in it.
enum class CacheType : std::uint8_t { kF16, kF32, kFp8, kInt8, kInt4, kFp4, kBf16 };

// Not inline: the kernels' files, compiled for several processors, must not share it.
[[maybe_unused]] static constexpr bool is_quantized(CacheType type) {
  return type >= CacheType::kFp8 && type <= CacheType::kFp4;
}

// "f16", "f32", "fp8" (E4M3), "int8", "int4", "fp4" (E2M1).
// \throws Error (kInvalidArgument) naming them.
CacheType parse_cache_type(std::string_view name);
std::string_view cache_type_name(CacheType type);

}  // namespace metal_marlin

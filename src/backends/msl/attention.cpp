#include "backends/msl/attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {

const char* kv_type_name(CacheType type) {
  switch (type) {
    case CacheType::kF32: return "float";
    case CacheType::kF16: return "half";
    case CacheType::kBf16: return "bfloat";
    case CacheType::kFp8: return "fp8";
    case CacheType::kInt8: return "int8";
    case CacheType::kInt4: return "int4";
    case CacheType::kFp4: return "fp4";
  }
  return "";
}

std::size_t cache_row_bytes(CacheType type, std::int64_t width) {
  const auto n = static_cast<std::size_t>(width);
  const auto words = [](std::size_t bits) { return (bits + 31) / 32 * 4; };
  const std::size_t scales = (n + 31) / 32 * 16;
  switch (type) {
    case CacheType::kF32: return 4 * n;
    case CacheType::kF16:
    case CacheType::kBf16: return 2 * n;
    case CacheType::kFp8:
    case CacheType::kInt8: return words(8 * n) + words(scales);
    case CacheType::kInt4:
    case CacheType::kFp4: return words(4 * n) + words(scales);
  }
  return 0;
}

std::uint32_t attention_width(const char* op, std::uint32_t heads, std::uint32_t kv_heads, std::uint32_t key_width,
                              std::uint32_t value_width, std::uint32_t most) {
  const std::uint32_t width = std::max(key_width, value_width);
  if (key_width == 0 || value_width == 0 || width > most) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: heads of {} and {}, expected 1 to {}", op, key_width, value_width, most));
  }
  if (kv_heads == 0 || heads % kv_heads != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} heads are no multiple of {} kv heads", op, heads, kv_heads));
  }
  return width <= 64 ? 64 : width <= 128 ? 128 : width <= 256 ? 256 : 640;
}

}  // namespace metal_marlin::msl

// What the attention ops share (shaders/common/attention.h).
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {

// Elements of a lane in the smallest kernel that holds heads of these widths.
// \throws Error (kInvalidArgument, kUnsupported) naming op and heads.
inline int attention_parts(const char* op, std::uint32_t heads, std::uint32_t kv_heads, std::uint32_t key_width,
                           std::uint32_t value_width) {
  const std::uint32_t width = std::max(key_width, value_width);
  if (key_width == 0 || value_width == 0 || width > 256) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: heads of {} and {}, expected 1 to 256", op, key_width, value_width));
  }
  if (kv_heads == 0 || heads % kv_heads != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} heads are no multiple of {} kv heads", op, heads, kv_heads));
  }
  return width <= 64 ? 2 : width <= 128 ? 4 : 8;
}

}  // namespace metal_marlin::msl

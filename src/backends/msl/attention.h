// What the attention ops share (shaders/common/attention.h, cache_rows.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backends/cache_type.h"

namespace metal_marlin::msl {

// As kernels' names have it.
const char* kv_type_name(CacheType type);
// Of a key or value of `width` elements.
std::size_t cache_row_bytes(CacheType type, std::int64_t width);

// The head width that kernels' names bear which hold heads of these widths, at most `most`.
// \throws Error (kInvalidArgument, kUnsupported) naming op and heads.
std::uint32_t attention_width(const char* op, std::uint32_t heads, std::uint32_t kv_heads, std::uint32_t key_width,
                              std::uint32_t value_width, std::uint32_t most = 640);

}  // namespace metal_marlin::msl

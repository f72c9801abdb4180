#include "backends/cache_type.h"

#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<std::pair<std::string_view, CacheType>, 6> kNames{{{"f16", CacheType::kF16},
                                                                        {"f32", CacheType::kF32},
                                                                        {"fp8", CacheType::kFp8},
                                                                        {"int8", CacheType::kInt8},
                                                                        {"int4", CacheType::kInt4},
                                                                        {"fp4", CacheType::kFp4}}};

}  // namespace

CacheType parse_cache_type(std::string_view name) {
  std::string known;
  for (const auto& [text, type] : kNames) {
    if (text == name) return type;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", text);
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("cache of {}: expected one of {}", name, known));
}

std::string_view cache_type_name(CacheType type) {
  for (const auto& [text, value] : kNames) {
    if (value == type) return text;
  }
  return "";
}

}  // namespace metal_marlin

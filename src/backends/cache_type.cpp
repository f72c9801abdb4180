#include "backends/cache_type.h"

#include <array>

#include "base/named.h"

namespace metal_marlin {
namespace {

constexpr std::array<NamedValue<CacheType>, 6> kNames{{{"f16", CacheType::kF16},
                                                       {"f32", CacheType::kF32},
                                                       {"fp8", CacheType::kFp8},
                                                       {"int8", CacheType::kInt8},
                                                       {"int4", CacheType::kInt4},
                                                       {"fp4", CacheType::kFp4}}};

}  // namespace

CacheType parse_cache_type(std::string_view name) {
  return value_of<CacheType>(kNames, name, "cache of");
}

std::string_view cache_type_name(CacheType type) {
  return name_of<CacheType>(kNames, type);
}

}  // namespace metal_marlin

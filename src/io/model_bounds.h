// The least and the most that a model may have of each thing, whatever file says how many: loops and buffers have these
// sizes before the weights, which would tell, are looked at.
#pragma once

#include <cstdint>

namespace metal_marlin {

struct Bounds {
  std::int64_t low;
  std::int64_t high;
};

inline constexpr std::int64_t kMaxDimension = std::int64_t{1} << 24;
inline constexpr Bounds kDimensionBounds{1, kMaxDimension};
inline constexpr Bounds kLayerBounds{1, 4096};
inline constexpr Bounds kHeadBounds{1, 65536};
inline constexpr Bounds kHeadDimBounds{2, 4096};
inline constexpr Bounds kExpertBounds{1, 65536};
inline constexpr Bounds kPositionBounds{1, std::int64_t{1} << 30};

}  // namespace metal_marlin

// Whether numbers are numbers.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace metal_marlin {

// Neither NaN nor infinite, any of them. Without a branch an element, so that it costs no more than reading them.
inline bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7F800000U;
  std::uint32_t bad = 0;
  for (const float x : values) bad |= (std::bit_cast<std::uint32_t>(x) & kExponent) == kExponent ? 1U : 0U;
  return bad == 0;
}

}  // namespace metal_marlin

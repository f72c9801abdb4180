// Whole multiples.
#pragma once

#include <concepts>
#include <cstdint>

namespace metal_marlin {

template <std::integral T = std::int64_t>
constexpr T divide_up(std::int64_t n, std::int64_t by) {
  return static_cast<T>((n + by - 1) / by);
}
// The next multiple of `to`.
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return divide_up(n, to) * to;
}

}  // namespace metal_marlin

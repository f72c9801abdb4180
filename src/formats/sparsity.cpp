#include "formats/sparsity.h"

#include <algorithm>

#include "formats/codec.h"

namespace metal_marlin {

std::optional<std::array<std::uint8_t, 2>> kept_positions(Format format, std::span<const std::uint8_t, 4> codes) {
  std::array<std::uint8_t, 2> kept{};
  std::size_t count = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    // E2M1 has two codes of zero, with either sign.
    if (format == Format::kS4 ? codes[i] == zero_code(format) : (codes[i] & 7U) == 0) continue;
    if (count == kept.size()) return std::nullopt;
    kept[count++] = static_cast<std::uint8_t>(i);
  }
  // Zeros fill up, at positions that are free.
  for (std::uint8_t i = 0; count < kept.size(); ++i) {
    if (count == 0 || kept[0] != i) kept[count++] = i;
  }
  if (kept[0] > kept[1]) std::swap(kept[0], kept[1]);
  return kept;
}

void prune(std::span<float> x, std::span<const float> importance) {
  for (std::size_t begin = 0; begin < x.size(); begin += kSparseGroup) {
    const auto weight = [&](std::size_t i) {
      const auto value = static_cast<double>(x[begin + i]);
      return value * value * (importance.empty() ? 1.0 : static_cast<double>(importance[begin + i]));
    };
    std::array<std::size_t, kSparseGroup> order{0, 1, 2, 3};
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return weight(a) > weight(b); });
    x[begin + order[2]] = x[begin + order[3]] = 0;
  }
}

}  // namespace metal_marlin

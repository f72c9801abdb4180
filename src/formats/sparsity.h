// 2:4 sparsity (arXiv 2104.08378): of each four neighbours in a row, two are kept. Packed, a row has the
// codes of the kept ones, and for each four neighbours four bits: the positions of the first, in the low
// two, and of the second, which is the greater.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "metal_marlin/format.h"

namespace metal_marlin {

constexpr std::int64_t kSparseGroup = 4;

// The positions of two of four codes, rising, so that no others are of weights that are not zero.
// Nothing: three or more are.
std::optional<std::array<std::uint8_t, 2>> kept_positions(Format format, std::span<const std::uint8_t, 4> codes);

// Sets to zero, of each four, the two whose squares times their importance (empty: all count alike) are
// the smallest; of equals the later. x: a multiple of four.
void prune(std::span<float> x, std::span<const float> importance);

}  // namespace metal_marlin

// A hash that stays the same from one program to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace metal_marlin {

// FNV-1a, 64 bits.
inline std::uint64_t hash_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const std::byte b : bytes) hash = (hash ^ std::to_integer<std::uint64_t>(b)) * 0x100000001B3;
  return hash;
}

}  // namespace metal_marlin

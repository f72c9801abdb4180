// A hash of much data that stays the same from one program to the next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace metal_marlin {

// FNV-1a by words of 8 bytes, the last filled up with zeros. One word that is another always makes another hash.
inline std::uint64_t hash_of_words(std::span<const std::byte> bytes, std::uint64_t hash = 0xCBF29CE484222325) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(hash)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof(word), bytes.size() - at));
    hash = (hash ^ word) * 0x100000001B3;
  }
  return hash;
}

}  // namespace metal_marlin

// Sets of Unicode characters, and the bytes that spell them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace metal_marlin {

struct CharacterRange {
  char32_t low;
  char32_t high;

  bool operator==(const CharacterRange&) const = default;
};

// Of the characters that UTF-8 can spell: surrogates are none.
class Characters {
 public:
  Characters() = default;
  Characters(std::initializer_list<CharacterRange> ranges);
  static Characters all();

  void add(CharacterRange range);
  void unite(const Characters& other);
  [[nodiscard]] Characters complement() const;
  [[nodiscard]] Characters intersection(const Characters& other) const;
  [[nodiscard]] Characters without(const Characters& other) const { return intersection(other.complement()); }
  // Ascending, with gaps between them.
  [[nodiscard]] std::span<const CharacterRange> ranges() const { return ranges_; }
  [[nodiscard]] bool empty() const { return ranges_.empty(); }

  bool operator==(const Characters&) const = default;

 private:
  std::vector<CharacterRange> ranges_;
};

struct ByteRange {
  std::uint8_t low;
  std::uint8_t high;
};

// One to four of them, one after the other.
using ByteSequence = std::vector<ByteRange>;

// The UTF-8 of a set: sequences of which each spelling follows exactly one.
std::vector<ByteSequence> utf8_sequences(const Characters& set);

}  // namespace metal_marlin

#include "grammar/characters.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/unicode.h"

namespace metal_marlin {
namespace {

constexpr char32_t kLastCharacter = 0x10FFFF;
constexpr CharacterRange kSurrogates{0xD800, 0xDFFF};

std::string utf8_of(char32_t character) {
  std::string out;
  append_utf8(character, out);
  return out;
}

// Of characters whose spellings are equally long.
void add_sequences(char32_t low, char32_t high, std::vector<ByteSequence>& out) {
  const std::string first = utf8_of(low);
  const std::string last = utf8_of(high);
  const std::size_t size = first.size();
  // The trailing bytes are independent where all of them run from 80 to BF: else the ends are cut off first.
  for (std::size_t rest = 1; rest < size; ++rest) {
    const char32_t mask = (char32_t{1} << (6 * rest)) - 1;
    if ((low & ~mask) == (high & ~mask)) continue;
    if ((low & mask) != 0) {
      add_sequences(low, low | mask, out);
      return add_sequences((low | mask) + 1, high, out);
    }
    if ((high & mask) != mask) {
      add_sequences(low, (high & ~mask) - 1, out);
      return add_sequences(high & ~mask, high, out);
    }
  }
  ByteSequence sequence;
  for (std::size_t i = 0; i < size; ++i)
    sequence.push_back({static_cast<std::uint8_t>(first[i]), static_cast<std::uint8_t>(last[i])});
  out.push_back(std::move(sequence));
}

}  // namespace

Characters::Characters(std::initializer_list<CharacterRange> ranges) {
  for (const CharacterRange range : ranges) add(range);
}

Characters Characters::all() {
  return Characters{{0, kLastCharacter}};
}

void Characters::add(CharacterRange range) {
  range.high = std::min(range.high, kLastCharacter);
  if (range.low <= kSurrogates.high && range.high >= kSurrogates.low) {
    if (range.low < kSurrogates.low) add({range.low, kSurrogates.low - 1});
    if (range.high > kSurrogates.high) add({kSurrogates.high + 1, range.high});
    return;
  }
  if (range.low > range.high) return;
  const auto touches = [&](const CharacterRange& other) {  // neighbours become one
    return other.low <= range.high + 1 && range.low <= other.high + 1;
  };
  for (const CharacterRange& other : ranges_) {
    if (!touches(other)) continue;
    range.low = std::min(range.low, other.low);
    range.high = std::max(range.high, other.high);
  }
  std::erase_if(ranges_, touches);  // those that the range now holds
  const auto place =
      std::find_if(ranges_.begin(), ranges_.end(), [&](const CharacterRange& other) { return other.low > range.low; });
  ranges_.insert(place, range);
}

void Characters::unite(const Characters& other) {
  for (const CharacterRange range : other.ranges_) add(range);
}

Characters Characters::complement() const {
  Characters out;
  char32_t next = 0;
  for (const CharacterRange range : ranges_) {
    if (range.low > next) out.add({next, range.low - 1});
    next = range.high + 1;
  }
  if (next <= kLastCharacter) out.add({next, kLastCharacter});
  return out;
}

Characters Characters::intersection(const Characters& other) const {
  Characters out;
  for (const CharacterRange a : ranges_) {
    for (const CharacterRange b : other.ranges_) {
      if (a.low <= b.high && b.low <= a.high) out.add({std::max(a.low, b.low), std::min(a.high, b.high)});
    }
  }
  return out;
}

std::vector<ByteSequence> utf8_sequences(const Characters& set) {
  // The last character that so many bytes spell.
  constexpr std::array<char32_t, 4> kLast{0x7F, 0x7FF, 0xFFFF, kLastCharacter};
  std::vector<ByteSequence> out;
  for (const CharacterRange range : set.ranges()) {
    char32_t first = 0;
    for (const char32_t last : kLast) {
      const char32_t low = std::max(range.low, first);
      const char32_t high = std::min(range.high, last);
      if (low <= high) add_sequences(low, high, out);
      first = last + 1;
    }
  }
  return out;
}

}  // namespace metal_marlin

// SentencePiece's compiled map from characters to what they become.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class PrecompiledMap {
 public:
  // text: in base64, a trie's size, the trie, and the texts that it points to.
  // \throws Error (kCorruptFile) naming `where`.
  PrecompiledMap(const std::string& text, const std::string& where);
  // What the shortest prefix of `part` that has an entry becomes, for all of `part`.
  [[nodiscard]] std::optional<std::string_view> find(std::string_view part) const;

 private:
  std::vector<std::uint32_t> trie_;
  std::string texts_;
};

}  // namespace metal_marlin

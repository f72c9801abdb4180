// A vocabulary's tokens by their bytes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

// Tokens of one range of lengths. Nodes lie in the order in which a walk meets them: a node's subtree is what follows
// it, until its end.
class TokenTrie {
 public:
  using Node = std::uint32_t;
  static constexpr Node kRoot = 0;

  // By id; tokens that have not that many bytes are in no place.
  TokenTrie(std::span<const std::string> tokens, std::size_t least_bytes, std::size_t most_bytes);

  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  [[nodiscard]] std::uint8_t byte(Node node) const { return bytes_[node]; }
  // How many bytes lead to it.
  [[nodiscard]] std::uint32_t depth(Node node) const { return depths_[node]; }
  // One past its subtree.
  [[nodiscard]] Node end(Node node) const { return ends_[node]; }
  [[nodiscard]] std::uint32_t deepest() const { return deepest_; }
  // Tokens that end here.
  [[nodiscard]] std::span<const TokenId> tokens(Node node) const {
    return std::span(ids_).subspan(first_[node], first_[node + 1] - first_[node]);
  }
  // The node that `text` leads to; size(): none.
  [[nodiscard]] Node find(std::string_view text) const;

 private:
  void add_node(std::uint8_t byte, std::uint32_t depth);

  std::vector<std::uint8_t> bytes_;
  std::vector<std::uint32_t> depths_;
  std::vector<Node> ends_;
  std::vector<std::uint32_t> first_;
  std::vector<TokenId> ids_;
  std::uint32_t deepest_ = 0;
};

// A vocabulary's tokens in tiers by their lengths, as what short ones may be is the same in many more places.
class TokenTiers {
 public:
  // The longest of all tiers but the last.
  static constexpr std::array<std::uint32_t, 3> kMostBytes{8, 16, 32};

  explicit TokenTiers(std::span<const std::string> tokens);

  [[nodiscard]] std::span<const TokenTrie> tries() const { return tries_; }
  // Bytes that are a token alone.
  [[nodiscard]] const ByteSet& single_bytes() const { return single_bytes_; }
  // Of all tokens, those without bytes too.
  [[nodiscard]] std::size_t token_count() const { return token_count_; }

 private:
  std::vector<TokenTrie> tries_;
  std::size_t token_count_;
  ByteSet single_bytes_;
};

}  // namespace metal_marlin

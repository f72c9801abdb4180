// Byte-pair encoding of one pre-token.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/token_model.h"

namespace metal_marlin {

// Pair of ids -> rank and merged id; open addressing, built once.
class MergeTable {
 public:
  struct Merge {
    std::int32_t rank;
    TokenId id;
  };
  void reserve(std::size_t merges);
  // The last of equal pairs is the one that counts.
  void insert(TokenId left, TokenId right, Merge merge);
  [[nodiscard]] const Merge* find(TokenId left, TokenId right) const;

 private:
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge{};
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  [[nodiscard]] std::size_t home(std::uint64_t key) const;
  std::vector<Slot> slots_;
  int shift_ = 64;
};

struct BpeOptions {
  bool byte_fallback = false;  // unknown characters become <0xXX> tokens
  bool ignore_merges = false;  // a piece that is a token is not split
  bool fuse_unknown = false;   // neighbouring unknown characters are one token
  std::optional<std::string> unknown;
  std::string prefix;  // of characters that are not a piece's first
  std::string suffix;  // of a piece's last character
};

class Bpe final : public TokenModel {
 public:
  // merges: in rank order. \throws Error (kCorruptFile) via `where`.
  Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options,
      std::string where);

  void encode(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  void initial_symbols(std::string_view piece, std::vector<TokenId>& symbols) const;
  void encode_whole(std::string_view piece, std::vector<TokenId>& out) const;
  [[nodiscard]] std::optional<TokenId> symbol(std::string_view spelling) const;
  [[nodiscard]] TokenId unknown_id() const;
  void merge_short(std::vector<TokenId>& symbols) const;
  void merge_long(std::vector<TokenId>& symbols) const;

  MergeTable merges_;
  BpeOptions options_;
  std::string where_;
  std::vector<TokenId> bytes_;                  // of the fallback, empty without one
  std::array<TokenId, 0x180> small_symbols_{};  // of the first characters of Unicode, -1 where missing
  // Whether no token holds U+2581 after another character. Text without
  // pre-tokens can then be cut before each word, as no merge crosses the cut.
  bool cut_before_words_ = false;
};

}  // namespace metal_marlin

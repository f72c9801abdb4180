// Byte-pair encoding of one pre-token.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

// Pair of ids -> rank and merged id; open addressing, built once.
class MergeTable {
 public:
  struct Merge {
    std::int32_t rank;
    TokenId id;
  };
  void reserve(std::size_t merges);
  // Keeps the first of equal pairs.
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
  bool byte_level = false;     // symbols are bytes, not characters
  bool byte_fallback = false;  // unknown characters become <0xXX> tokens
  bool ignore_merges = false;  // a pre-token that is a token is not split
  bool fuse_unknown = false;   // neighbouring unknown characters are one token
  std::optional<TokenId> unknown;
};

class Bpe {
 public:
  // vocab: raw bytes of each token (byte-level spelling already undone).
  // merges: in rank order. \throws Error (kCorruptFile) via `where`.
  Bpe(std::unordered_map<std::string, TokenId> vocab, const std::vector<std::pair<std::string, std::string>>& merges,
      const BpeOptions& options, const std::string& where);

  // Appends the ids of one pre-token.
  void encode(std::string_view piece, std::vector<TokenId>& out) const;
  [[nodiscard]] std::optional<TokenId> find(std::string_view token) const;

 private:
  void initial_symbols(std::string_view piece, std::vector<TokenId>& symbols) const;
  void encode_whole(std::string_view piece, std::vector<TokenId>& out) const;
  void append_character(std::string_view character, std::vector<TokenId>& symbols, bool& after_unknown) const;
  void merge_short(std::vector<TokenId>& symbols) const;
  void merge_long(std::vector<TokenId>& symbols) const;

  std::unordered_map<std::string, TokenId> vocab_;
  MergeTable merges_;
  BpeOptions options_;
  std::array<TokenId, 256> byte_symbols_{};    // byte-level alphabet, -1 where missing
  std::array<TokenId, 256> byte_fallbacks_{};  // <0xXX>, -1 where missing
  std::array<TokenId, 128> ascii_symbols_{};   // single characters, -1 where missing
  // Whether no token holds U+2581 after another character. Text without
  // pre-tokens can then be cut before each word, as no merge crosses the cut.
  bool cut_before_words_ = false;
};

}  // namespace metal_marlin

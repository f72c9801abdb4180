// Byte-pair encoding as SentencePiece has it: neighbours that together spell a token are merged, those of the highest
// score first, of equal scores the leftmost. Ranks of pairs, which a tokenizer.json has, cannot say so.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/token_model.h"

namespace metal_marlin {

class ScoredMerges final : public TokenModel {
 public:
  // scores: of tokens, by id. unknown: for characters of which not all bytes have tokens.
  // \throws Error (kCorruptFile) for ids without a score.
  ScoredMerges(Vocabulary vocabulary, std::vector<float> scores, std::optional<TokenId> unknown, std::string where);

  void encode(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  struct Symbol {
    std::uint32_t begin;
    std::uint32_t size;  // 0: merged into the one before
    std::uint32_t previous;
    std::uint32_t next;
  };
  void encode_word(std::string_view word, std::vector<TokenId>& out) const;
  void merge(std::string_view word, std::vector<Symbol>& symbols) const;
  void append(std::string_view text, std::vector<TokenId>& out) const;

  std::vector<float> scores_;
  std::optional<TokenId> unknown_;
  std::string where_;
  std::vector<TokenId> bytes_;
  bool cut_before_words_;
};

}  // namespace metal_marlin

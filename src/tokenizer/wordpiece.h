// Longest-match tokens of words (BERT), and whole words.
#pragma once

#include "tokenizer/token_model.h"

namespace metal_marlin {

class WordPiece final : public TokenModel {
 public:
  WordPiece(Vocabulary vocabulary, std::string unknown, std::string prefix, std::size_t max_characters,
            std::string where);
  void encode(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  void append_unknown(std::vector<TokenId>& out) const;
  std::string unknown_;
  std::string prefix_;  // of what is not a word's beginning
  std::size_t max_characters_;
  std::size_t longest_ = 0;  // bytes of a token
  std::string where_;
};

class WordLevel final : public TokenModel {
 public:
  WordLevel(Vocabulary vocabulary, std::string unknown, std::string where);
  void encode(std::string_view piece, std::vector<TokenId>& out) const override;

 private:
  std::string unknown_;
  std::string where_;
};

}  // namespace metal_marlin

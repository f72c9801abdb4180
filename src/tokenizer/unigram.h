// SentencePiece's unigram model: the best-scored way to cut a piece into tokens.
#pragma once

#include "tokenizer/token_model.h"

namespace metal_marlin {

class Unigram final : public TokenModel {
 public:
  // pieces: by id. unknown: the id of what has no token.
  Unigram(std::vector<std::pair<std::string, double>> pieces, std::optional<TokenId> unknown, bool byte_fallback,
          std::string where);
  void encode(std::string_view piece, std::vector<TokenId>& out) const override;
  [[nodiscard]] std::size_t size() const override { return pieces_.size(); }
  void spell(Spellings& spellings) const override;

 private:
  // A trie of tokens, its nodes sorted by (parent, byte).
  struct Node {
    std::uint32_t first_child = 0;
    std::uint32_t children = 0;
    TokenId id = -1;
    unsigned char byte = 0;
  };
  struct Best {
    double score = 0;
    std::size_t start = kUnreached;
    TokenId id = -1;  // -1: unknown
  };
  static constexpr std::size_t kUnreached = ~std::size_t{0};
  void build_trie();
  [[nodiscard]] const Node* child(const Node& node, unsigned char byte) const;
  void reach_from(std::string_view piece, std::size_t start, std::vector<Best>& best) const;
  void append_unknown(std::string_view text, std::vector<TokenId>& out) const;

  std::vector<std::pair<std::string, double>> pieces_;
  std::vector<Node> nodes_;
  std::vector<TokenId> bytes_;  // of the fallback, empty without one
  std::optional<TokenId> unknown_;
  double unknown_score_ = 0;
  std::string where_;
};

}  // namespace metal_marlin

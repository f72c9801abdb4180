// What turns one piece of text into tokens: BPE, Unigram, WordPiece or WordLevel.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/json.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

// Lookup by string_view, without a copy.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using Vocabulary = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;
// Tokens by id. Ids may lie as far apart as a file says: memory follows from how many there are.
using Spellings = std::unordered_map<TokenId, std::string>;

class TokenModel {
 public:
  // json: the `model` field. \throws Error (kCorruptFile, kUnsupported) naming the field.
  static std::unique_ptr<const TokenModel> parse(const JsonObject& json);

  virtual ~TokenModel() = default;
  // Appends the ids of one piece of valid UTF-8. \throws Error (kUnsupported) for text that the model has no token for,
  // where the reference fails too.
  virtual void encode(std::string_view piece, std::vector<TokenId>& out) const = 0;
  [[nodiscard]] const Vocabulary& vocabulary() const { return vocabulary_; }
  [[nodiscard]] std::optional<TokenId> find(std::string_view token) const;
  // How many tokens the model says it has.
  [[nodiscard]] virtual std::size_t size() const { return vocabulary_.size(); }
  // The token of each id that has one.
  virtual void spell(Spellings& spellings) const;

 protected:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

 private:
  Vocabulary vocabulary_;
};

// The ids of <0x00> to <0xFF>, -1 where missing.
std::vector<TokenId> byte_tokens(const TokenModel& model);

}  // namespace metal_marlin

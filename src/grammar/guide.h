// A text as it is generated under a grammar.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/stacks.h"
#include "grammar/token_masks.h"
#include "grammar/token_trie.h"
#include "metal_marlin/grammar.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

// Where a text has come to.
class GrammarMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const Automaton> automaton);
  explicit GrammarMatcher(const Grammar& grammar);
  // Goes on by these bytes. \returns false, and changes nothing, where no text of the grammar does.
  // \throws Error (kInvalidArgument) where the text can be read in too many ways; it has changed nothing then, too.
  bool accept(std::string_view bytes);
  [[nodiscard]] bool is_complete() const { return places_.at_bottom; }
  [[nodiscard]] bool can_go_on() const { return !places_.reading.empty(); }
  // Ranges of bytes that may follow, some of them more than once.
  [[nodiscard]] std::vector<Automaton::ByteEdge> next() const;
  [[nodiscard]] const Places& places() const { return places_; }
  [[nodiscard]] const Stacks& stacks() const { return stacks_; }

 private:
  std::shared_ptr<const Automaton> automaton_;
  Stacks stacks_;
  Places places_;
};

// A tokenizer's tokens, and grammars as they are said in them. Usable from many threads at once.
class GrammarVocabulary {
 public:
  // \param size of the model's vocabulary, which may have more or fewer tokens.
  // \throws Error (kUnsupported) as Tokenizer::token_bytes().
  GrammarVocabulary(std::shared_ptr<const Tokenizer> tokenizer, std::int64_t size);

  // The same one for the same grammar while somebody has it and few others were asked for since.
  // \throws Error (kInvalidArgument) where the tokens' bytes make no text of the grammar.
  std::shared_ptr<TokenMasks> masks(const std::shared_ptr<const Grammar>& grammar);
  [[nodiscard]] std::span<const std::string> bytes() const { return bytes_; }
  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  struct Made {
    std::weak_ptr<const Grammar> grammar;
    std::shared_ptr<TokenMasks> masks;
    std::uint64_t used;  // the last use's number
  };
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::string> bytes_;
  std::shared_ptr<const TokenTiers> tiers_;
  std::mutex mutex_;
  std::map<const Grammar*, Made> made_;
  std::uint64_t uses_ = 0;
};

// What the tokens of one answer may be.
class GrammarGuide {
 public:
  // \param ends tokens that end an answer.
  GrammarGuide(std::shared_ptr<GrammarVocabulary> vocabulary, const std::shared_ptr<const Grammar>& grammar,
               std::vector<TokenId> ends, const std::optional<GrammarThought>& thought);

  // The tokens that may come next; of the ends all where the text is complete, and none before. Holds until the next
  // call of take().
  std::span<const std::uint64_t> allowed();
  // A token that was allowed, and is no end.
  void take(TokenId id);
  // The text is complete, and nothing may follow.
  [[nodiscard]] bool has_ended() const;

 private:
  // Before a thought that may come; within it; behind it, where line ends belong to its tag; in the grammar's text.
  enum class Stage : std::uint8_t { kStart, kThought, kBehind, kText };
  [[nodiscard]] std::string_view bytes_of(TokenId id) const;
  [[nodiscard]] bool may_follow_thought(std::string_view bytes) const;
  void prepare_thought();
  void think(TokenId id);
  void allow_thought();
  void forbid_behind(const TokenTrie& trie, std::size_t begun);
  void allow_text();
  void take_text(std::string_view bytes);

  std::shared_ptr<GrammarVocabulary> vocabulary_;
  std::shared_ptr<TokenMasks> masks_;
  std::vector<TokenId> ends_;
  GrammarThought thought_;
  Stage stage_ = Stage::kText;
  std::optional<TokenId> open_;  // the tags as tokens
  std::optional<TokenId> close_;
  std::vector<TokenId> holding_;    // tokens that hold the closing tag and more
  std::vector<TokenId> line_ends_;  // tokens of nothing else
  std::string tail_;                // of a thought: what its closing tag may have begun in
  GrammarMatcher matcher_;
  TokenMask mask_;
  // Masks of places where the text was before.
  std::map<std::vector<std::uint64_t>, TokenMask> kept_;
};

}  // namespace metal_marlin

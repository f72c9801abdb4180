#include "grammar/guide.h"

#include <algorithm>

#include "grammar/grammar_impl.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kMostKept = 32;
constexpr std::size_t kMostWorkPerByte = std::size_t{1} << 20;  // some milliseconds
constexpr std::size_t kMostMasks = 16;                          // that are kept while no answer needs them

void forbid(TokenMask& mask, TokenId id) {
  mask[static_cast<std::size_t>(id) / 64] &= ~(std::uint64_t{1} << (static_cast<std::size_t>(id) % 64));
}

std::string_view without_line_ends(std::string_view text) {
  while (text.starts_with('\n')) text.remove_prefix(1);
  return text;
}

}  // namespace

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Automaton> automaton) : automaton_(std::move(automaton)) {
  stacks_.begin_work(kMostWorkPerByte);
  places_ = close_places(*automaton_, stacks_, {{automaton_->start(), Stacks::kBottom}});
}

GrammarMatcher::GrammarMatcher(const Grammar& grammar) : GrammarMatcher(grammar.impl_->automaton) {}

std::vector<Automaton::ByteEdge> GrammarMatcher::next() const {
  std::vector<Automaton::ByteEdge> out;
  for (const Position& position : places_.reading) {
    const auto& edges = automaton_->state(position.state).edges;
    out.insert(out.end(), edges.begin(), edges.end());
  }
  return out;
}

bool GrammarMatcher::accept(std::string_view bytes) {
  Places at = places_;
  for (const char c : bytes) {
    stacks_.begin_work(kMostWorkPerByte);
    at = step_places(*automaton_, stacks_, at, static_cast<std::uint8_t>(c));
    if (at.is_dead()) return false;
  }
  places_ = std::move(at);
  return true;
}

GrammarVocabulary::GrammarVocabulary(std::shared_ptr<const Tokenizer> tokenizer, std::int64_t size)
    : tokenizer_(std::move(tokenizer)), bytes_(tokenizer_->token_bytes()) {
  bytes_.resize(static_cast<std::size_t>(size));
  tiers_ = std::make_shared<TokenTiers>(bytes_);
}

std::shared_ptr<TokenMasks> GrammarVocabulary::masks(const std::shared_ptr<const Grammar>& grammar) {
  const std::lock_guard lock(mutex_);
  std::erase_if(made_, [](const auto& entry) { return entry.second.grammar.expired(); });
  if (const auto known = made_.find(grammar.get()); known != made_.end()) {
    known->second.used = ++uses_;
    return known->second.masks;
  }
  std::shared_ptr<const Automaton> automaton = grammar->impl_->automaton;
  // Only what bytes that are tokens can say: then there is always a token that goes on.
  if (!tiers_->single_bytes().all())
    automaton = std::make_shared<Automaton>(grammar->impl_->rules, tiers_->single_bytes());
  if (!GrammarMatcher(automaton).can_go_on())
    throw Error(ErrorCode::kInvalidArgument, "the grammar has no text but the empty one");
  auto masks = std::make_shared<TokenMasks>(std::move(automaton), tiers_);
  masks->make_ahead();
  if (made_.size() >= kMostMasks)
    made_.erase(std::min_element(made_.begin(), made_.end(),
                                 [](const auto& a, const auto& b) { return a.second.used < b.second.used; }));
  made_.emplace(grammar.get(), Made{grammar, masks, ++uses_});
  return masks;
}

GrammarGuide::GrammarGuide(std::shared_ptr<GrammarVocabulary> vocabulary, const std::shared_ptr<const Grammar>& grammar,
                           std::vector<TokenId> ends, const std::optional<GrammarThought>& thought)
    : vocabulary_(std::move(vocabulary)),
      masks_(vocabulary_->masks(grammar)),
      ends_(std::move(ends)),
      matcher_(std::shared_ptr<const Automaton>(masks_, &masks_->automaton())),
      mask_(masks_->words()) {
  if (!thought) return;
  thought_ = *thought;
  stage_ = thought_.is_open ? Stage::kThought : Stage::kStart;
  prepare_thought();
}

void GrammarGuide::prepare_thought() {
  open_ = vocabulary_->tokenizer().find(thought_.open);
  close_ = vocabulary_->tokenizer().find(thought_.close);
  const auto bytes = vocabulary_->bytes();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    if (bytes[i].find(thought_.close) != std::string::npos && bytes[i] != thought_.close) holding_.push_back(id);
    if (!bytes[i].empty() && without_line_ends(bytes[i]).empty()) line_ends_.push_back(id);
  }
}

std::string_view GrammarGuide::bytes_of(TokenId id) const {
  return vocabulary_->bytes()[static_cast<std::size_t>(id)];
}

bool GrammarGuide::may_follow_thought(std::string_view bytes) const {
  const std::string_view text = without_line_ends(bytes);
  return text.empty() || GrammarMatcher(matcher_).accept(text);
}

// Those that close a thought of which the tag's first bytes have come, and go on with what is not of the grammar.
void GrammarGuide::forbid_behind(const TokenTrie& trie, std::size_t begun) {
  const std::string_view left = std::string_view(thought_.close).substr(begun);
  const TokenTrie::Node from = trie.find(left);
  if (from == trie.size()) return;
  for (TokenTrie::Node node = from + 1; node < trie.end(from); ++node) {
    for (const TokenId id : trie.tokens(node)) {
      if (!may_follow_thought(bytes_of(id).substr(left.size()))) forbid(mask_, id);
    }
  }
}

// All tokens but ends, and those that close the thought and go on with what is not of the grammar.
void GrammarGuide::allow_thought() {
  std::fill(mask_.begin(), mask_.end(), ~std::uint64_t{0});
  for (const TokenId id : ends_) forbid(mask_, id);
  for (const TokenId id : holding_) {
    const std::string_view bytes = bytes_of(id);
    if (!may_follow_thought(bytes.substr(bytes.find(thought_.close) + thought_.close.size()))) forbid(mask_, id);
  }
  for (std::size_t begun = 1; begun < thought_.close.size(); ++begun) {
    if (!std::string_view(tail_).ends_with(std::string_view(thought_.close).substr(0, begun))) continue;
    for (const TokenTrie& trie : masks_->tiers().tries()) forbid_behind(trie, begun);
  }
}

void GrammarGuide::allow_text() {
  std::vector<std::uint64_t> key;
  for (const Position& p : matcher_.places().kernel) key.push_back(std::uint64_t{p.state} << 32 | p.stack);
  const auto known = kept_.find(key);
  if (known != kept_.end()) {
    mask_ = known->second;
    return;
  }
  std::fill(mask_.begin(), mask_.end(), 0);
  masks_->add(matcher_.stacks(), matcher_.places(), mask_);
  for (const TokenId id : ends_) {
    forbid(mask_, id);
    if (matcher_.is_complete()) add_token(mask_, id);
  }
  if (kept_.size() >= kMostKept) kept_.clear();
  kept_.emplace(std::move(key), mask_);
}

std::span<const std::uint64_t> GrammarGuide::allowed() {
  if (stage_ == Stage::kThought) {
    allow_thought();
    return mask_;
  }
  allow_text();
  if (stage_ == Stage::kStart && open_) add_token(mask_, *open_);
  if (stage_ == Stage::kBehind) {
    for (const TokenId id : line_ends_) add_token(mask_, id);
  }
  if (std::all_of(mask_.begin(), mask_.end(), [](std::uint64_t word) { return word == 0; }))
    throw Error(ErrorCode::kInvalidArgument, "the grammar can only go on by a token that is to end the answer");
  return mask_;
}

void GrammarGuide::take_text(std::string_view bytes) {
  stage_ = Stage::kText;
  if (bytes.empty() || !matcher_.accept(bytes))
    throw Error(ErrorCode::kInternal, "a token was drawn that the grammar does not allow");
}

void GrammarGuide::think(TokenId id) {
  if (id == close_) {
    stage_ = Stage::kBehind;
    return;
  }
  tail_ += bytes_of(id);
  const std::size_t at = tail_.find(thought_.close);
  if (at == std::string::npos) {
    if (tail_.size() >= thought_.close.size()) tail_.erase(0, tail_.size() - thought_.close.size() + 1);
    return;
  }
  stage_ = Stage::kBehind;
  const std::string_view text = without_line_ends(std::string_view(tail_).substr(at + thought_.close.size()));
  if (!text.empty()) take_text(text);
}

void GrammarGuide::take(TokenId id) {
  if (stage_ == Stage::kThought) return think(id);
  if (stage_ == Stage::kStart && id == open_) {
    stage_ = Stage::kThought;
    return;
  }
  const std::string_view bytes = bytes_of(id);
  const bool is_line_end = stage_ == Stage::kBehind && without_line_ends(bytes).empty();
  if (is_line_end && !GrammarMatcher(matcher_).accept(bytes)) {
    stage_ = Stage::kText;
    return;
  }
  take_text(bytes);
}

bool GrammarGuide::has_ended() const {
  return stage_ == Stage::kText && matcher_.is_complete() && !matcher_.can_go_on();
}

}  // namespace metal_marlin

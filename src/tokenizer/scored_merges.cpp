#include "tokenizer/scored_merges.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <queue>

#include "base/printable.h"
#include "base/unicode.h"
#include "metal_marlin/error.h"
#include "tokenizer/word_marks.h"

namespace metal_marlin {
namespace {

constexpr std::uint32_t kNoSymbol = UINT32_MAX;

// Two neighbours that spell a token.
struct ScoredPair {
  float score;
  std::uint32_t left;
  std::uint32_t right;
  std::uint32_t size;  // of both when they were found; another by now: one has grown
  bool operator<(const ScoredPair& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

ScoredMerges::ScoredMerges(Vocabulary vocabulary, std::vector<float> scores, std::optional<TokenId> unknown,
                           std::string where)
    : TokenModel(std::move(vocabulary)),
      scores_(std::move(scores)),
      unknown_(unknown),
      where_(std::move(where)),
      bytes_(byte_tokens(*this)),
      cut_before_words_(find(kWordMark).has_value()) {
  for (const auto& [token, id] : this->vocabulary()) {
    if (static_cast<std::size_t>(id) >= scores_.size() || std::isnan(scores_[static_cast<std::size_t>(id)]))
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: token {} '{}' has no score", where_, id, printable(token)));
    cut_before_words_ = cut_before_words_ && !mark_inside(token);
  }
}

void ScoredMerges::merge(std::string_view word, std::vector<Symbol>& symbols) const {
  std::priority_queue<ScoredPair> pairs;
  const auto consider = [&](std::uint32_t left, std::uint32_t right) {
    if (left == kNoSymbol || right == kNoSymbol) return;
    const std::uint32_t size = symbols[left].size + symbols[right].size;
    if (const auto id = find(word.substr(symbols[left].begin, size)))
      pairs.push({scores_[static_cast<std::size_t>(*id)], left, right, size});
  };
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) consider(i, i + 1);
  while (!pairs.empty()) {
    const ScoredPair pair = pairs.top();
    pairs.pop();
    Symbol& left = symbols[pair.left];
    Symbol& right = symbols[pair.right];
    if (left.size == 0 || right.size == 0 || left.size + right.size != pair.size) continue;
    left.size = pair.size;
    left.next = right.next;
    right.size = 0;
    if (left.next != kNoSymbol) symbols[left.next].previous = pair.left;
    consider(left.previous, pair.left);
    consider(pair.left, left.next);
  }
}

// A token, or a character that is none.
void ScoredMerges::append(std::string_view text, std::vector<TokenId>& out) const {
  if (const auto id = find(text)) {
    out.push_back(*id);
    return;
  }
  const auto byte = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
  if (std::all_of(text.begin(), text.end(), [&](char c) { return byte(c) >= 0; })) {
    for (const char c : text) out.push_back(byte(c));
  } else if (unknown_) {
    if (out.empty() || out.back() != *unknown_) out.push_back(*unknown_);  // neighbours are one
  } else {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{}: the text has '{}', for whose bytes the vocabulary has no tokens", where_, printable(text)));
  }
}

void ScoredMerges::encode_word(std::string_view word, std::vector<TokenId>& out) const {
  thread_local std::vector<Symbol> symbols;
  symbols.clear();
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t begin = at;
    next_character(word, at);
    const auto index = static_cast<std::uint32_t>(symbols.size());
    symbols.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(at - begin),
                       index == 0 ? kNoSymbol : index - 1, at < word.size() ? index + 1 : kNoSymbol});
  }
  merge(word, symbols);
  for (const Symbol& symbol : symbols) {
    if (symbol.size > 0) append(word.substr(symbol.begin, symbol.size), out);
  }
}

void ScoredMerges::encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.size() >= kNoSymbol)
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: a text of {} bytes, expected less than {} without a token "
                                                     "that has a part of its own",
                                                     where_, piece.size(), kNoSymbol));
  if (!cut_before_words_) return encode_word(piece, out);
  split_at_marks(piece, [&](std::string_view word) { encode_word(word, out); });
}

}  // namespace metal_marlin

#include "tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <queue>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kWordMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space

bool mark_inside(std::string_view token) {
  std::size_t at = token.find(kWordMark, 1);
  while (at != std::string_view::npos && token.substr(0, at).ends_with(kWordMark)) at = token.find(kWordMark, at + 1);
  return at != std::string_view::npos;
}

// Below this many symbols a scan beats a heap.
constexpr std::size_t kShort = 48;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

void MergeTable::reserve(std::size_t merges) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(merges * 2, 16));
  slots_.assign(size, Slot{});
  shift_ = 64 - std::countr_zero(size);
}

std::size_t MergeTable::home(std::uint64_t key) const {
  return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ULL) >> shift_);
}

void MergeTable::insert(TokenId left, TokenId right, Merge merge) {
  const std::uint64_t key = pair_key(left, right);
  for (std::size_t at = home(key);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].key == key) return;
    if (slots_[at].key == kEmpty) {
      slots_[at] = {key, merge};
      return;
    }
  }
}

const MergeTable::Merge* MergeTable::find(TokenId left, TokenId right) const {
  const std::uint64_t key = pair_key(left, right);
  for (std::size_t at = home(key);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].key == key) return &slots_[at].merge;
    if (slots_[at].key == kEmpty) return nullptr;
  }
}

Bpe::Bpe(std::unordered_map<std::string, TokenId> vocab, const std::vector<std::pair<std::string, std::string>>& merges,
         const BpeOptions& options, const std::string& where)
    : vocab_(std::move(vocab)), options_(options) {
  merges_.reserve(merges.size());
  cut_before_words_ = !options.byte_level && find(kWordMark).has_value();
  std::int32_t rank = 0;
  for (const auto& [left, right] : merges) {
    const auto left_id = find(left);
    const auto right_id = find(right);
    const auto merged = find(left + right);
    if (!left_id || !right_id || !merged) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: merge {} of '{}' and '{}' names a token that the vocabulary lacks", where, rank,
                              sanitize_utf8(left), sanitize_utf8(right)));
    }
    if (mark_inside(left + right)) cut_before_words_ = false;
    merges_.insert(*left_id, *right_id, {rank++, *merged});
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_symbols_[byte] = find(std::string(1, static_cast<char>(byte))).value_or(-1);
    if (byte < 128) ascii_symbols_[byte] = byte_symbols_[byte];
    byte_fallbacks_[byte] = find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
}

std::optional<TokenId> Bpe::find(std::string_view token) const {
  const auto found = vocab_.find(std::string(token));
  if (found == vocab_.end()) return std::nullopt;
  return found->second;
}

void Bpe::append_character(std::string_view character, std::vector<TokenId>& symbols, bool& after_unknown) const {
  const auto lead = static_cast<unsigned char>(character.front());
  const std::optional<TokenId> id = lead >= 128 ? find(character) : std::optional(ascii_symbols_[lead]);
  if (id && *id >= 0) {
    symbols.push_back(*id);
    after_unknown = false;
    return;
  }
  const auto fallback = [&](char c) { return byte_fallbacks_[static_cast<unsigned char>(c)]; };
  if (options_.byte_fallback &&
      std::all_of(character.begin(), character.end(), [&](char c) { return fallback(c) >= 0; })) {
    for (const char c : character) symbols.push_back(fallback(c));
    after_unknown = false;
    return;
  }
  if (!options_.unknown) return;
  if (!(options_.fuse_unknown && after_unknown)) symbols.push_back(*options_.unknown);
  after_unknown = true;
}

void Bpe::initial_symbols(std::string_view piece, std::vector<TokenId>& symbols) const {
  symbols.clear();
  if (options_.byte_level) {
    for (const char c : piece) {
      const TokenId id = byte_symbols_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        symbols.push_back(id);
      } else if (options_.unknown) {
        symbols.push_back(*options_.unknown);
      }
    }
    return;
  }
  bool after_unknown = false;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t begin = at;
    next_character(piece, at);
    append_character(piece.substr(begin, at - begin), symbols, after_unknown);
  }
}

void Bpe::merge_short(std::vector<TokenId>& symbols) const {
  std::array<MergeTable::Merge, kShort> pairs;
  const auto lookup = [&](std::size_t i) {
    const MergeTable::Merge* const merge = merges_.find(symbols[i], symbols[i + 1]);
    return merge != nullptr ? *merge : MergeTable::Merge{INT32_MAX, -1};
  };
  std::size_t count = symbols.size();
  for (std::size_t i = 0; i + 1 < count; ++i) pairs[i] = lookup(i);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == INT32_MAX) break;
    symbols[best] = pairs[best].id;
    --count;
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 2,
              symbols.begin() + static_cast<std::ptrdiff_t>(count) + 1,
              symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    for (std::size_t i = best + 1; i + 1 < count; ++i) pairs[i] = pairs[i + 1];
    if (best + 1 < count) pairs[best] = lookup(best);
    if (best > 0) pairs[best - 1] = lookup(best - 1);
  }
  symbols.resize(count);
}

// The same order of merges (rank, then position) from a heap, for long runs.
void Bpe::merge_long(std::vector<TokenId>& symbols) const {
  struct Candidate {
    std::int32_t rank;
    std::uint32_t left;
    TokenId left_id;
    TokenId right_id;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  constexpr auto kNone = UINT32_MAX;
  const auto n = static_cast<std::uint32_t>(symbols.size());
  std::vector<std::uint32_t> next(n);
  std::vector<std::uint32_t> previous(n);
  std::vector<Candidate> storage;
  storage.reserve(n);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>(), std::move(storage));
  const auto consider = [&](std::uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const MergeTable::Merge* const merge = merges_.find(symbols[left], symbols[next[left]]);
    if (merge != nullptr) heap.push({merge->rank, left, symbols[left], symbols[next[left]]});
  };
  for (std::uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
  }
  for (std::uint32_t i = 0; i < n; ++i) consider(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    const std::uint32_t right = symbols[top.left] == -1 ? kNone : next[top.left];
    if (right == kNone || symbols[top.left] != top.left_id || symbols[right] != top.right_id) continue;
    symbols[top.left] = merges_.find(top.left_id, top.right_id)->id;
    symbols[right] = -1;
    next[top.left] = next[right];
    if (next[right] != kNone) previous[next[right]] = top.left;
    consider(previous[top.left]);
    consider(top.left);
  }
  std::erase(symbols, -1);
}

void Bpe::encode_whole(std::string_view piece, std::vector<TokenId>& out) const {
  thread_local std::vector<TokenId> symbols;
  initial_symbols(piece, symbols);
  if (symbols.size() > kShort) {
    merge_long(symbols);
  } else if (symbols.size() > 1) {
    merge_short(symbols);
  }
  out.insert(out.end(), symbols.begin(), symbols.end());
}

void Bpe::encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.empty()) return;
  if (options_.ignore_merges) {
    if (const auto id = find(piece)) {
      out.push_back(*id);
      return;
    }
  }
  if (!cut_before_words_ || piece.size() <= kShort) return encode_whole(piece, out);
  std::size_t begin = 0;
  for (std::size_t at = piece.find(kWordMark, 1); at != std::string_view::npos;
       at = piece.find(kWordMark, at + kWordMark.size())) {
    if (piece.substr(0, at).ends_with(kWordMark)) continue;  // inside a run of spaces
    encode_whole(piece.substr(begin, at - begin), out);
    begin = at;
  }
  encode_whole(piece.substr(begin), out);
}

}  // namespace metal_marlin

#include "tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <queue>

#include "base/unicode.h"
#include "metal_marlin/error.h"
#include "tokenizer/word_marks.h"

namespace metal_marlin {
namespace {

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
    if (slots_[at].key != key && slots_[at].key != kEmpty) continue;
    slots_[at] = {key, merge};
    return;
  }
}

const MergeTable::Merge* MergeTable::find(TokenId left, TokenId right) const {
  const std::uint64_t key = pair_key(left, right);
  for (std::size_t at = home(key);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].key == key) return &slots_[at].merge;
    if (slots_[at].key == kEmpty) return nullptr;
  }
}

Bpe::Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options,
         std::string where)
    : TokenModel(std::move(vocabulary)), options_(std::move(options)), where_(std::move(where)) {
  merges_.reserve(merges.size());
  cut_before_words_ = options_.prefix.empty() && options_.suffix.empty() && find(kWordMark).has_value();
  std::int32_t rank = 0;
  for (const auto& [left, right] : merges) {
    // The library cuts as many bytes as the prefix has, whatever they are.
    const std::size_t cut = options_.prefix.size();
    const bool prefixed = cut == right.size() || (cut < right.size() && !is_continuation(right[cut]));
    const std::string whole = prefixed ? left + right.substr(cut) : "";
    const auto left_id = find(left);
    const auto right_id = find(right);
    const auto merged = find(whole);
    if (!left_id || !right_id || !merged || !prefixed) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: merge {} of '{}' and '{}' names a token that the vocabulary lacks", where_, rank,
                              left, right));
    }
    if (mark_inside(whole)) cut_before_words_ = false;
    merges_.insert(*left_id, *right_id, {rank++, *merged});
  }
  for (std::size_t c = 0; c < small_symbols_.size(); ++c) {
    std::string spelling;
    append_utf8(static_cast<char32_t>(c), spelling);
    small_symbols_[c] = find(spelling).value_or(-1);
  }
  if (options_.byte_fallback) bytes_ = byte_tokens(*this);
}

std::optional<TokenId> Bpe::symbol(std::string_view spelling) const {
  std::size_t at = 0;
  if (spelling.size() > 2) return find(spelling);
  const char32_t c = next_character(spelling, at);
  if (at != spelling.size() || c >= small_symbols_.size()) return find(spelling);
  return small_symbols_[c] >= 0 ? std::optional(small_symbols_[c]) : std::nullopt;
}

TokenId Bpe::unknown_id() const {
  const auto id = find(*options_.unknown);
  if (!id) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{}: the text needs the unk_token {}, which is not in the vocabulary", where_, *options_.unknown));
  }
  return *id;
}

void Bpe::initial_symbols(std::string_view piece, std::vector<TokenId>& symbols) const {
  symbols.clear();
  TokenId unknown = -1;  // found, but not written yet; bytes of later characters go before it
  std::string affixed;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t begin = at;
    next_character(piece, at);
    std::string_view spelling = piece.substr(begin, at - begin);
    const bool inner = begin > 0 && !options_.prefix.empty();
    const bool last = at == piece.size() && !options_.suffix.empty();
    if (inner || last) {
      affixed = fmt::format("{}{}{}", inner ? options_.prefix : "", spelling, last ? options_.suffix : "");
      spelling = affixed;
    }
    const auto fallback = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
    if (const auto id = symbol(spelling)) {
      if (unknown >= 0) symbols.push_back(unknown);
      unknown = -1;
      symbols.push_back(*id);
    } else if (!bytes_.empty() &&
               std::all_of(spelling.begin(), spelling.end(), [&](char c) { return fallback(c) >= 0; })) {
      for (const char c : spelling) symbols.push_back(fallback(c));
    } else if (options_.unknown) {
      if (unknown >= 0 && !options_.fuse_unknown) symbols.push_back(unknown);
      unknown = unknown_id();
    }
  }
  if (unknown >= 0) symbols.push_back(unknown);
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
  split_at_marks(piece, [&](std::string_view word) { encode_whole(word, out); });
}

}  // namespace metal_marlin

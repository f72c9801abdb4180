#include "tokenizer/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr double kUnknownPenalty = 10;

// The last of equal tokens is the one that counts.
Vocabulary ids_of(const std::vector<std::pair<std::string, double>>& pieces) {
  Vocabulary ids;
  ids.reserve(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) ids[pieces[i].first] = static_cast<TokenId>(i);
  return ids;
}

}  // namespace

Unigram::Unigram(std::vector<std::pair<std::string, double>> pieces, std::optional<TokenId> unknown, bool byte_fallback,
                 std::string where)
    : TokenModel(ids_of(pieces)), pieces_(std::move(pieces)), unknown_(unknown), where_(std::move(where)) {
  double lowest = std::numeric_limits<double>::infinity();
  for (const auto& piece : pieces_) lowest = std::min(lowest, piece.second);
  unknown_score_ = lowest - kUnknownPenalty;
  if (byte_fallback) {
    bytes_ = byte_tokens(*this);
  }
  build_trie();
}

void Unigram::spell(Spellings& spellings) const {
  for (std::size_t id = 0; id < pieces_.size(); ++id) spellings[static_cast<TokenId>(id)] = pieces_[id].first;
}

// Breadth first over the sorted tokens, so that the children of a node stand side by side.
void Unigram::build_trie() {
  std::vector<std::pair<std::string_view, TokenId>> sorted;
  for (const auto& [token, id] : vocabulary()) {
    if (!token.empty()) sorted.emplace_back(token, id);
  }
  std::sort(sorted.begin(), sorted.end());
  struct Range {
    std::size_t begin;
    std::size_t end;
    std::size_t depth;
  };
  nodes_.emplace_back();
  std::vector<Range> ranges{{0, sorted.size(), 0}};
  for (std::size_t node = 0; node < nodes_.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    if (begin < end && sorted[begin].first.size() == depth) nodes_[node].id = sorted[begin++].second;
    nodes_[node].first_child = static_cast<std::uint32_t>(nodes_.size());
    while (begin < end) {
      const auto byte = static_cast<unsigned char>(sorted[begin].first[depth]);
      std::size_t last = begin;
      while (last < end && static_cast<unsigned char>(sorted[last].first[depth]) == byte) ++last;
      nodes_.push_back({0, 0, -1, byte});
      ranges.push_back({begin, last, depth + 1});
      ++nodes_[node].children;
      begin = last;
    }
  }
}

const Unigram::Node* Unigram::child(const Node& node, unsigned char byte) const {
  const auto begin = nodes_.begin() + node.first_child;
  const auto end = begin + node.children;
  const auto found = std::lower_bound(begin, end, byte, [](const Node& a, unsigned char b) { return a.byte < b; });
  return found != end && found->byte == byte ? &*found : nullptr;
}

// The tokens that begin here, and the character here as an unknown one if it is no token itself.
void Unigram::reach_from(std::string_view piece, std::size_t start, std::vector<Best>& best) const {
  const double so_far = best[start].score;
  const auto is_better = [&](std::size_t end, double score) {
    return best[end].start == kUnreached || score > best[end].score;
  };
  std::size_t next = start;
  next_character(piece, next);
  bool single = false;
  const Node* node = nodes_.data();
  for (std::size_t at = start; at < piece.size(); ++at) {
    node = child(*node, static_cast<unsigned char>(piece[at]));
    if (node == nullptr) break;
    if (node->id < 0) continue;
    const double score = pieces_[static_cast<std::size_t>(node->id)].second + so_far;
    if (is_better(at + 1, score)) best[at + 1] = {score, start, node->id};
    single = single || at + 1 == next;
  }
  if (single || !is_better(next, unknown_score_ + so_far)) return;
  if (!unknown_) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: the text has a character without a token, and the model no "
                                                     "unk_id",
                                                     where_));
  }
  best[next] = {unknown_score_ + so_far, start, *unknown_};
}

void Unigram::append_unknown(std::string_view text, std::vector<TokenId>& out) const {
  if (const auto id = find(text)) {
    out.push_back(*id);
    return;
  }
  const auto byte = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
  if (!bytes_.empty() && std::all_of(text.begin(), text.end(), [&](char c) { return byte(c) >= 0; })) {
    for (const char c : text) out.push_back(byte(c));
  } else {
    out.push_back(*unknown_);
  }
}

void Unigram::encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (piece.empty()) return;
  std::vector<Best> best(piece.size() + 1);
  for (std::size_t start = 0; start < piece.size();) {
    reach_from(piece, start, best);
    next_character(piece, start);
  }
  struct Cut {
    std::size_t begin;
    std::size_t end;
    TokenId id;
  };
  std::vector<Cut> cuts;  // from the end
  for (std::size_t end = piece.size(); end > 0; end = best[end].start) {
    const TokenId id = best[end].id;
    // Unknown neighbours are one.
    if (!cuts.empty() && unknown_ && id == *unknown_ && cuts.back().id == id) {
      cuts.back().begin = best[end].start;
    } else {
      cuts.push_back({best[end].start, end, id});
    }
  }
  for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
    if (unknown_ && cut->id == *unknown_) {
      append_unknown(piece.substr(cut->begin, cut->end - cut->begin), out);
    } else {
      out.push_back(cut->id);
    }
  }
}

}  // namespace metal_marlin

#include "tokenizer/wordpiece.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

[[noreturn]] void no_unknown(const std::string& where, const std::string& unknown) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: the text needs the unk_token {}, which is not in the vocabulary", where, unknown));
}

}  // namespace

WordPiece::WordPiece(Vocabulary vocabulary, std::string unknown, std::string prefix, std::size_t max_characters,
                     std::string where)
    : TokenModel(std::move(vocabulary)),
      unknown_(std::move(unknown)),
      prefix_(std::move(prefix)),
      max_characters_(max_characters),
      where_(std::move(where)) {
  for (const auto& entry : this->vocabulary()) longest_ = std::max(longest_, entry.first.size());
}

void WordPiece::append_unknown(std::vector<TokenId>& out) const {
  const auto id = find(unknown_);
  if (!id) no_unknown(where_, unknown_);
  out.push_back(*id);
}

void WordPiece::encode(std::string_view piece, std::vector<TokenId>& out) const {
  if (count_characters(piece) > max_characters_) return append_unknown(out);
  const std::size_t before = out.size();
  std::string candidate;
  for (std::size_t start = 0; start < piece.size();) {
    std::size_t end = std::min(piece.size(), start + longest_);
    while (end < piece.size() && end > start && is_continuation(piece[end])) --end;
    std::optional<TokenId> id;
    for (; end > start; --end) {
      if (end < piece.size() && is_continuation(piece[end])) continue;
      candidate = start > 0 ? prefix_ : "";
      candidate += piece.substr(start, end - start);
      id = find(candidate);
      if (id) break;
    }
    if (!id) {
      out.resize(before);
      return append_unknown(out);
    }
    out.push_back(*id);
    start = end;
  }
}

WordLevel::WordLevel(Vocabulary vocabulary, std::string unknown, std::string where)
    : TokenModel(std::move(vocabulary)), unknown_(std::move(unknown)), where_(std::move(where)) {}

void WordLevel::encode(std::string_view piece, std::vector<TokenId>& out) const {
  auto id = find(piece);
  if (!id) id = find(unknown_);
  if (!id) no_unknown(where_, unknown_);
  out.push_back(*id);
}

}  // namespace metal_marlin

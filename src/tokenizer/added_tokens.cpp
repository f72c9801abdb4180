#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "base/unicode.h"

namespace metal_marlin {
namespace {

char32_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && is_continuation(text[at])) --at;
  return next_character(text, at);
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word_character(last_character(text));
}

bool starts_with_word(std::string_view text) {
  std::size_t at = 0;
  return !text.empty() && is_word_character(next_character(text, at));
}

// Where trailing white space begins.
std::size_t trim_end(std::string_view text) {
  while (!text.empty() && is_white_space(last_character(text))) {
    std::size_t at = text.size() - 1;
    while (at > 0 && is_continuation(text[at])) --at;
    text = text.substr(0, at);
  }
  return text.size();
}

std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::size_t next = at;
    if (!is_white_space(next_character(text, next))) break;
    at = next;
  }
  return at;
}

}  // namespace

void AddedTokenMatcher::insert(const std::string& pattern, const AddedToken& token) {
  const AddedToken* const stored = &tokens_.insert_or_assign(pattern, token).first->second;
  std::size_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    const auto [entry, added] = nodes_[node].next.try_emplace(byte, nodes_.size());
    const std::size_t child = entry->second;
    if (added) nodes_.emplace_back();
    node = child;
  }
  nodes_[node].token = stored;
  starts_[static_cast<unsigned char>(pattern.front())] = true;
}

const AddedToken* AddedTokenMatcher::longest(std::string_view text, std::size_t at, std::size_t& end) const {
  const AddedToken* best = nullptr;
  std::size_t node = 0;
  for (; at < text.size(); ++at) {
    const auto next = nodes_[node].next.find(static_cast<unsigned char>(text[at]));
    if (next == nodes_[node].next.end()) break;
    node = next->second;
    if (nodes_[node].token == nullptr) continue;
    best = nodes_[node].token;
    end = at + 1;
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, std::size_t head, bool parse_special, const OnText& on_text,
                              const OnToken& on_token) const {
  std::size_t done = 0;
  const auto text_up_to = [&](std::size_t end) {
    if (done < end) on_text(text.substr(done, end - done), head - std::min(head, done));
  };
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = 0;
    const AddedToken* const token = starts_[static_cast<unsigned char>(text[at])] ? longest(text, at, end) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    at = end;
    if (token->special && !parse_special) continue;
    if (token->single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token->lstrip) begin = std::max(done, trim_end(text.substr(0, begin)));
    if (token->rstrip) end += leading_space(text.substr(end));
    text_up_to(begin);
    if (begin < end) on_token(token->id);  // nothing is left where the token before has taken its space
    done = end;
  }
  text_up_to(text.size());
}

}  // namespace metal_marlin

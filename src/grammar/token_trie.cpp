#include "grammar/token_trie.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace metal_marlin {

void TokenTrie::add_node(std::uint8_t byte, std::uint32_t depth) {
  bytes_.push_back(byte);
  depths_.push_back(depth);
  ends_.push_back(0);
  first_.push_back(static_cast<std::uint32_t>(ids_.size()));
  deepest_ = std::max(deepest_, depth);
}

TokenTrie::TokenTrie(std::span<const std::string> tokens, std::size_t least_bytes, std::size_t most_bytes) {
  std::vector<TokenId> order(tokens.size());
  std::iota(order.begin(), order.end(), 0);
  const auto text = [&](TokenId id) -> const std::string& { return tokens[static_cast<std::size_t>(id)]; };
  std::erase_if(order, [&](TokenId id) { return text(id).size() < least_bytes || text(id).size() > most_bytes; });
  std::sort(order.begin(), order.end(),
            [&](TokenId a, TokenId b) { return text(a) != text(b) ? text(a) < text(b) : a < b; });
  add_node(0, 0);
  std::vector<Node> path{kRoot};
  std::string_view last;
  const auto leave = [&](std::size_t depth) {
    while (path.size() > depth) {
      ends_[path.back()] = static_cast<Node>(bytes_.size());
      path.pop_back();
    }
  };
  for (const TokenId id : order) {
    const std::string_view bytes = text(id);
    const auto same = static_cast<std::size_t>(
        std::mismatch(last.begin(), last.end(), bytes.begin(), bytes.end()).first - last.begin());
    leave(same + 1);
    for (std::size_t i = same; i < bytes.size(); ++i) {
      path.push_back(static_cast<Node>(bytes_.size()));
      add_node(static_cast<std::uint8_t>(bytes[i]), static_cast<std::uint32_t>(i + 1));
    }
    ids_.push_back(id);
    last = bytes;
  }
  leave(0);
  first_.push_back(static_cast<std::uint32_t>(ids_.size()));
}

TokenTrie::Node TokenTrie::find(std::string_view text) const {
  Node at = kRoot;
  for (const char c : text) {
    Node child = at + 1;
    while (child < ends_[at] && bytes_[child] != static_cast<std::uint8_t>(c)) child = ends_[child];
    if (child >= ends_[at]) return static_cast<Node>(size());
    at = child;
  }
  return at;
}

TokenTiers::TokenTiers(std::span<const std::string> tokens) : token_count_(tokens.size()) {
  std::size_t least = 1;
  for (const std::uint32_t most : kMostBytes) {
    tries_.emplace_back(tokens, least, most);
    least = std::size_t{most} + 1;
  }
  tries_.emplace_back(tokens, least, std::numeric_limits<std::size_t>::max());
  for (const std::string& text : tokens) {
    if (text.size() == 1) single_bytes_.set(static_cast<std::uint8_t>(text[0]));
  }
}

}  // namespace metal_marlin

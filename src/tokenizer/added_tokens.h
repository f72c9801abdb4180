// Tokens that are found in the text before anything else happens to it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool special = false;
};

// Leftmost-longest search for a set of tokens.
class AddedTokenMatcher {
 public:
  void insert(const AddedToken& token);
  [[nodiscard]] bool empty() const { return tokens_.empty(); }

  using OnText = std::function<void(std::string_view, bool first)>;
  using OnToken = std::function<void(TokenId)>;
  // Cuts `text` into tokens and the text between them, in order.
  void split(std::string_view text, bool first, bool parse_special, const OnText& on_text,
             const OnToken& on_token) const;

 private:
  struct Node {
    std::map<unsigned char, std::size_t> next;
    const AddedToken* token = nullptr;
  };
  [[nodiscard]] const AddedToken* longest(std::string_view text, std::size_t at, bool parse_special) const;

  std::map<std::string, AddedToken> tokens_;
  std::vector<Node> nodes_{Node{}};
  std::array<bool, 256> starts_{};
};

}  // namespace metal_marlin

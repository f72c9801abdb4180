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
  bool normalized = false;
  bool special = false;
};

// Leftmost-longest search for a set of tokens.
class AddedTokenMatcher {
 public:
  // pattern: what to look for, not empty.
  void insert(const std::string& pattern, const AddedToken& token);

  using OnText = std::function<void(std::string_view, std::size_t head)>;
  using OnToken = std::function<void(TokenId)>;
  // Cuts `text`, of which the first `head` bytes come from the input's first character, into tokens and the text
  // between them, in order. Without parse_special, special tokens are skipped over.
  void split(std::string_view text, std::size_t head, bool parse_special, const OnText& on_text,
             const OnToken& on_token) const;

 private:
  struct Node {
    std::map<unsigned char, std::size_t> next;
    const AddedToken* token = nullptr;
  };
  // The longest token at `at`, and where it ends.
  [[nodiscard]] const AddedToken* longest(std::string_view text, std::size_t at, std::size_t& end) const;

  std::map<std::string, AddedToken> tokens_;  // by pattern
  std::vector<Node> nodes_{Node{}};
  std::array<bool, 256> starts_{};
};

}  // namespace metal_marlin

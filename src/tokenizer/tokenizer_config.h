// What a tokenizer_config.json adds to a tokenizer.json.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "tokenizer/added_tokens.h"

namespace metal_marlin {

struct TokenizerConfig {
  std::vector<AddedToken> tokens;        // added_tokens_decoder
  std::vector<AddedToken> named_tokens;  // bos_token and the like, to be added where they are not yet
  bool split_specials = false;
  bool says_ends = false;  // whether add_bos_token or add_eos_token is there, which override the post_processor
  std::optional<std::string> begin;
  std::optional<std::string> end;

  // The post_processor for the ends, or null.
  [[nodiscard]] Json ends_json(const std::function<std::optional<TokenId>(const std::string&)>& find) const;
};

// \throws Error (kCorruptFile) naming the field.
TokenizerConfig parse_tokenizer_config(std::string_view text, const std::string& where);
// An entry of added_tokens or added_tokens_decoder, or one of the named tokens.
AddedToken parse_added_token(const JsonObject& json);

}  // namespace metal_marlin

// What a tokenizer_config.json adds to a tokenizer.json.
#pragma once

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
  bool clean_up = false;             // spaces before English punctuation go, where the model is not BPE
  bool clean_up_bpe = false;         // and where it is
  std::vector<std::string> unknown;  // fields that are neither used nor known to change nothing
};

// \throws Error (kCorruptFile) naming the field.
TokenizerConfig parse_tokenizer_config(std::string_view text, const std::string& where);
// A tokenizer_config.json with what older folders have in files of their own, special_tokens_map.json and
// added_tokens.json; all but `where` may be empty. \throws Error (kCorruptFile) naming the file.
std::string join_tokenizer_config(std::string_view config, std::string_view special_tokens_map,
                                  std::string_view added_tokens, const std::string& where);
// What the file of a tokenizer_config.json is called in errors, where the tokenizer.json is called `where`.
std::string tokenizer_config_beside(const std::string& where);
// An entry of added_tokens or added_tokens_decoder, or one of the named tokens.
AddedToken parse_added_token(const JsonObject& json);

}  // namespace metal_marlin

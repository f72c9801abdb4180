// What stands around a text's tokens, as the `post_processor` of a tokenizer.json says for a single text.
#pragma once

#include <string>
#include <vector>

#include "io/json.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

class PostProcessor {
 public:
  static PostProcessor parse(const Json& json, const std::string& where);
  // \throws Error (kUnsupported) for a template behind stages that leave more parts than it can take.
  void apply(std::vector<TokenId>& ids, bool add_special) const;

 private:
  using Ids = std::vector<TokenId>;
  // The first or second part of what came in, ids of its own, or those of a label that there is not.
  struct Piece {
    enum class Kind { kFirst, kSecond, kSpecial, kMissing } kind;
    Ids ids;
  };
  // Each piece of a template is a part for the stage behind it.
  struct Template {
    std::vector<Piece> single;
    std::vector<Piece> pair;
  };
  // cls and sep around the first part, sep around (RoBERTa) or behind (BERT) the others.
  struct Stage {
    bool is_template;
    Template pieces;
    TokenId cls = 0;
    TokenId sep = 0;
    bool sep_before = false;
  };
  // if_used: a label that special_tokens lacks is an error of the texts that need it, not of the file.
  static std::vector<Piece> parse_pieces(const JsonObject& json, const char* key, bool if_used);
  static Stage parse_stage(const JsonObject& json, const std::string& type);
  void apply_template(const Template& pieces, std::vector<Ids>& parts, bool add_special) const;
  static void surround(const Stage& stage, std::vector<Ids>& parts);
  std::vector<Stage> stages_;
  std::string where_;
};

// A token id of a file. \throws Error (kCorruptFile) naming the field.
TokenId parse_token_id(const Json& json, const JsonObject& owner, const char* key);

}  // namespace metal_marlin

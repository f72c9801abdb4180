#include "tokenizer/tokenizer_config.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// A token given as text or as an object; nothing for null.
std::optional<AddedToken> parse_named(const Json& json, const std::string& where) {
  if (json.is_null()) return std::nullopt;
  AddedToken token;
  if (json.is_string()) {
    token.content = json.get<std::string>();
  } else {
    token = parse_added_token(JsonObject(json, where));
  }
  token.special = true;
  return token;
}

}  // namespace

AddedToken parse_added_token(const JsonObject& json) {
  AddedToken token;
  token.content = json.string("content");
  token.single_word = json.boolean_or("single_word", false);
  token.lstrip = json.boolean_or("lstrip", false);
  token.rstrip = json.boolean_or("rstrip", false);
  token.special = json.boolean_or("special", false);
  token.normalized = json.boolean_or("normalized", !token.special);
  return token;
}

TokenizerConfig parse_tokenizer_config(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  const JsonObject root(json, where);
  TokenizerConfig out;
  if (root.has("added_tokens_decoder")) {
    const JsonObject decoder = root.object("added_tokens_decoder");
    std::map<std::int64_t, const Json*> by_id;
    for (const auto& [key, token] : decoder.json().items()) {
      std::int64_t id = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size()) decoder.wrong(key.c_str(), "a token id as its key");
      by_id[id] = &token;
    }
    for (const auto& [id, token] : by_id) out.tokens.push_back(parse_added_token(JsonObject(*token, decoder.where())));
  }
  for (const char* const key :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    if (!root.has(key)) continue;
    auto token = parse_named(root.at(key), where + ": " + key);
    if (std::string_view(key) == "bos_token") out.begin = token->content;
    if (std::string_view(key) == "eos_token") out.end = token->content;
    out.named_tokens.push_back(std::move(*token));
  }
  for (const char* const key : {"additional_special_tokens", "extra_special_tokens"}) {
    if (!root.has(key)) continue;
    for (const Json& entry : root.at(key)) {
      if (auto token = parse_named(entry, where + ": " + key)) out.named_tokens.push_back(std::move(*token));
    }
  }
  out.split_specials = root.boolean_or("split_special_tokens", false);
  out.says_ends = root.has("add_bos_token") || root.has("add_eos_token");
  if (!root.boolean_or("add_bos_token", false)) out.begin.reset();
  if (!root.boolean_or("add_eos_token", false)) out.end.reset();
  return out;
}

Json TokenizerConfig::ends_json(const std::function<std::optional<TokenId>(const std::string&)>& find) const {
  if (!says_ends) return nullptr;
  Json pieces = Json::array();
  Json special = Json::object();
  const auto add = [&](const std::optional<std::string>& token) {
    if (!token) return;
    pieces.push_back({{"SpecialToken", {{"id", *token}, {"type_id", 0}}}});
    special[*token] = {{"id", *token}, {"ids", Json::array({find(*token).value_or(0)})}};
  };
  add(begin);
  pieces.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(end);
  return {{"type", "TemplateProcessing"}, {"single", pieces}, {"special_tokens", special}};
}

}  // namespace metal_marlin

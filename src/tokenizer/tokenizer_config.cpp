#include "tokenizer/tokenizer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<const char*, 7> kNamedTokens{"bos_token", "eos_token", "unk_token", "sep_token",
                                                  "pad_token", "cls_token", "mask_token"};
// add_bos_token and add_eos_token are the post_processor's where there is a tokenizer.json, as there is here.
constexpr std::array<std::string_view, 9> kUsed{
    "added_tokens_decoder",
    "model_specific_special_tokens",
    "additional_special_tokens",
    "extra_special_tokens",
    "split_special_tokens",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "add_bos_token",
    "add_eos_token"};
// Who wrote the tokenizer, with what; what templates and processors of other inputs are made of.
constexpr std::array<std::string_view, 18> kOrigin{"tokenizer_class",
                                                   "auto_map",
                                                   "backend",
                                                   "is_local",
                                                   "local_files_only",
                                                   "name_or_path",
                                                   "tokenizer_file",
                                                   "vocab_file",
                                                   "processor_class",
                                                   "chat_template",
                                                   "special_tokens_map_file",
                                                   "init_inputs",
                                                   "response_schema",
                                                   "response_template",
                                                   "device_map",
                                                   "trust_remote_code",
                                                   "use_fast",
                                                   "return_token_type_ids"};
// Of batches and of texts that are cut: a text is taken alone and whole here.
constexpr std::array<std::string_view, 14> kBatches{"model_max_length",
                                                    "max_len",
                                                    "max_length",
                                                    "padding",
                                                    "padding_side",
                                                    "pad_to_multiple_of",
                                                    "pad_token_type_id",
                                                    "truncation",
                                                    "truncation_side",
                                                    "truncation_strategy",
                                                    "stride",
                                                    "model_input_names",
                                                    "add_special_tokens",
                                                    "errors"};
// How the stages of a tokenizer.json are made, which says them itself.
constexpr std::array<std::string_view, 17> kStages{"add_prefix_space",
                                                   "legacy",
                                                   "legacy_behaviour",
                                                   "sp_model_kwargs",
                                                   "spaces_between_special_tokens",
                                                   "use_default_system_prompt",
                                                   "do_lower_case",
                                                   "do_basic_tokenize",
                                                   "never_split",
                                                   "strip_accents",
                                                   "tokenize_chinese_chars",
                                                   "keep_accents",
                                                   "remove_space",
                                                   "trim_offsets",
                                                   "from_slow",
                                                   "extra_ids",
                                                   "fix_mistral_regex"};

bool known(const std::string& key) {
  const auto holds = [&](const auto& keys) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
  return key.ends_with("_token") || holds(kUsed) || holds(kOrigin) || holds(kBatches) || holds(kStages);
}

// A token given as text or as an object.
void add_named(const Json& json, const std::string& where, TokenizerConfig& out) {
  if (json.is_null()) return;
  AddedToken token;
  if (json.is_string()) {
    token.content = json.get<std::string>();
  } else {
    token = parse_added_token(JsonObject(json, where));
  }
  token.special = true;
  out.named_tokens.push_back(std::move(token));
}

// Tokens of names that only this model has, first those given as objects.
void add_own_names(const OrderedJson& root, const std::string& where, TokenizerConfig& out) {
  for (const bool objects : {true, false}) {
    for (const auto& [key, value] : root.items()) {
      const bool standard = std::find(kNamedTokens.begin(), kNamedTokens.end(), key) != kNamedTokens.end();
      const bool fits = objects ? value.is_object() && value.contains("__type") : value.is_string();
      if (fits && !standard && key.ends_with("_token")) add_named(Json(value), fmt::format("{}: {}", where, key), out);
    }
  }
}

void add_tokens_decoder(const JsonObject& decoder, TokenizerConfig& out) {
  std::map<std::int64_t, const Json*> by_id;
  for (const auto& [key, token] : decoder.json().items()) {
    std::int64_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) decoder.wrong(key.c_str(), "a token id as its key");
    by_id[id] = &token;
  }
  for (const auto& [id, token] : by_id)
    out.tokens.push_back(parse_added_token(JsonObject(*token, fmt::format("{}: {}", decoder.where(), id))));
}

// Another file of the folder that a tokenizer.json lies in.
std::string beside(const std::string& where, const char* name) {
  return std::filesystem::path(where).replace_filename(name).string();
}

OrderedJson parse_ordered(std::string_view text, const std::string& where) {
  static_cast<void>(JsonObject(parse_json(text, where), where));
  return OrderedJson::parse(text.begin(), text.end());
}

// The tokens of an added_tokens.json. Ids count for their order alone, so that texts do as well, in the order of texts.
std::vector<std::string> in_order_of_ids(std::string_view added_tokens, const std::string& where) {
  const OrderedJson ids = parse_ordered(added_tokens, where);
  const Json plain(ids);
  const JsonObject object(plain, where);
  std::map<Json, std::string> tokens;
  for (const auto& [token, id] : ids.items()) {
    const bool alike = tokens.empty() || tokens.begin()->first.is_string() == id.is_string();
    if (!alike || (!id.is_string() && !id.is_number_integer()))
      object.wrong(token.c_str(), "a token id, written as the others are");
    tokens[Json(id)] = token;
  }
  std::vector<std::string> out;
  for (const auto& [id, token] : tokens) out.push_back(token);
  return out;
}

}  // namespace

std::string tokenizer_config_beside(const std::string& where) {
  return beside(where, "tokenizer_config.json");
}

AddedToken parse_added_token(const JsonObject& json) {
  constexpr std::array<std::string_view, 8> kKeys{"id",     "content",    "single_word", "lstrip",
                                                  "rstrip", "normalized", "special",     "__type"};
  json.only(kKeys);
  AddedToken token;
  token.content = json.string_or("content", "");  // of nothing there is no token
  token.single_word = json.boolean_or("single_word", false);
  token.lstrip = json.boolean_or("lstrip", false);
  token.rstrip = json.boolean_or("rstrip", false);
  token.special = json.boolean_or("special", false);
  token.normalized = json.boolean_or("normalized", !token.special);
  return token;
}

TokenizerConfig parse_tokenizer_config(std::string_view text, const std::string& where) {
  const OrderedJson ordered = parse_ordered(text, where);
  const Json json(ordered);
  const JsonObject root(json, where);
  TokenizerConfig out;
  if (root.has("added_tokens_decoder")) add_tokens_decoder(root.object("added_tokens_decoder"), out);
  for (const char* const key : kNamedTokens) {
    if (root.has(key)) add_named(root.at(key), where + ": " + key, out);
  }
  add_own_names(ordered, where, out);
  // An object gives tokens names and stands in the place of the model's own, a list in that of the additional ones.
  const bool is_list = json.contains("extra_special_tokens") && !json.at("extra_special_tokens").is_object();
  const bool is_object = json.contains("extra_special_tokens") && !is_list;
  for (const char* const key : {is_object ? "extra_special_tokens" : "model_specific_special_tokens",
                                is_list ? "extra_special_tokens" : "additional_special_tokens"}) {
    if (!root.has(key)) continue;
    if (!root.at(key).is_structured()) root.wrong(key, "tokens: a list, or an object of their names");
    for (const OrderedJson& entry : ordered.at(key)) {
      if (entry.is_null()) root.wrong(key, "tokens, none of them null");
      add_named(Json(entry), where + ": " + key, out);
    }
  }
  out.split_specials = root.boolean_or("split_special_tokens", false);
  out.clean_up = root.boolean_or("clean_up_tokenization_spaces", false);
  out.clean_up_bpe =
      out.clean_up && root.boolean_or("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", false);
  for (const auto& [key, value] : json.items()) {
    if (!value.is_null() && !known(key)) out.unknown.push_back(key);
  }
  return out;
}

std::string join_tokenizer_config(std::string_view config, std::string_view special_tokens_map,
                                  std::string_view added_tokens, const std::string& where) {
  if (special_tokens_map.empty() && added_tokens.empty()) return std::string(config);
  OrderedJson root =
      config.empty() ? OrderedJson::object() : parse_ordered(config, beside(where, "tokenizer_config.json"));
  if (root.contains("added_tokens_decoder")) return std::string(config);
  if (!special_tokens_map.empty()) {
    const OrderedJson map = parse_ordered(special_tokens_map, beside(where, "special_tokens_map.json"));
    for (const auto& [key, value] : map.items()) root[key] = value;
  }
  if (!added_tokens.empty()) {
    const TokenizerConfig named = parse_tokenizer_config(root.dump(), beside(where, "special_tokens_map.json"));
    OrderedJson& decoder = root["added_tokens_decoder"] = OrderedJson::object();
    for (const std::string& token : in_order_of_ids(added_tokens, beside(where, "added_tokens.json"))) {
      const bool special = std::any_of(named.named_tokens.begin(), named.named_tokens.end(),
                                       [&](const AddedToken& other) { return other.content == token; });
      decoder[std::to_string(decoder.size())] = {{"content", token}, {"special", special}, {"normalized", !special}};
    }
  }
  return root.dump();
}

}  // namespace metal_marlin

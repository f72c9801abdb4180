#include "io/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Values of tokenizer.ggml.token_type.
constexpr std::int64_t kUnknown = 2;
constexpr std::int64_t kControl = 3;
constexpr std::int64_t kUserDefined = 4;

Json split(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json digits() {
  return {{"type", "Digits"}, {"individual_digits", true}};
}

Json sequence(std::initializer_list<Json> stages) {
  Json list = Json::array();
  for (const Json& stage : stages) list.push_back(stage);
  return {{"type", "Sequence"}, {"pretokenizers", list}};
}

// The pre-tokenizers that `tokenizer.ggml.pre` names, as the models' own
// tokenizer.json files spell them.
struct PreKind {
  Json pre_tokenizer;
  Json normalizer;
  bool ignore_merges = false;
};

PreKind pre_kind(const std::string& name, const std::string& where) {
  constexpr std::string_view kLlama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  constexpr std::string_view kQwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  constexpr std::string_view kDeepSeek3 =
      R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (name == "gpt-2" || name == "gpt2" || name == "default") return {byte_level(true), nullptr, false};
  if (name == "smollm") return {sequence({digits(), byte_level(true)}), nullptr, false};
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    return {sequence({split(kLlama3), byte_level(false)}), nullptr, true};
  }
  if (name == "qwen2") return {sequence({split(kQwen2), byte_level(false)}), {{"type", "NFC"}}, false};
  if (name == "glm4" || name == "chatglm-bpe") return {sequence({split(kLlama3), byte_level(false)}), nullptr, false};
  if (name == "deepseek-llm") {
    return {sequence({split(R"([\r\n])"), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"),
                      split("[一-龥ࠀ-一가-\xED\x9F\xBF]+"), digits(), byte_level(false)}),
            nullptr, false};
  }
  if (name == "deepseek-v3") {
    return {sequence({split(R"(\p{N}{1,3})"), split("[一-龥぀-ゟ゠-ヿ]+"), split(kDeepSeek3), byte_level(false)}),
            nullptr, false};
  }
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: key tokenizer.ggml.pre is '{}', expected one of gpt-2, default, smollm, llama-bpe, qwen2, "
                  "glm4, chatglm-bpe, deepseek-llm, deepseek-v3",
                  where, name));
}

// SentencePiece BPE merges the pair that makes the best-scored piece; as ranked
// merges, that is all splits of the pieces in order of score.
Json merges_from_scores(const std::vector<std::string_view>& tokens, const std::vector<float>& scores,
                        const std::vector<std::int64_t>& types) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], i);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == 1) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  Json merges = Json::array();
  for (const std::size_t id : order) {
    const std::string_view piece = tokens[id];
    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    for (std::size_t at = 0; at < piece.size();) {
      next_character(piece, at);
      const auto left = ids.find(piece.substr(0, at));
      const auto right = ids.find(piece.substr(at));
      if (at < piece.size() && left != ids.end() && right != ids.end()) pairs.emplace_back(left->second, right->second);
    }
    std::sort(pairs.begin(), pairs.end());
    for (const auto& [left, right] : pairs) merges.push_back({tokens[left], tokens[right]});
  }
  return merges;
}

void fill_sentencepiece(const Gguf& gguf, const std::vector<std::string_view>& tokens,
                        const std::vector<std::int64_t>& types, Json& out) {
  const std::vector<float> scores = gguf.floats("tokenizer.ggml.scores");
  if (scores.size() != tokens.size()) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key tokenizer.ggml.scores: {} scores for {} tokens",
                                                     gguf.where, scores.size(), tokens.size()));
  }
  const bool prefix = gguf.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  Json steps = Json::array();
  if (prefix) steps.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}});
  out["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  out["pre_tokenizer"] = nullptr;
  Json decoders = Json::array({{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                               {{"type", "ByteFallback"}},
                               {{"type", "Fuse"}}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  out["model"]["merges"] = merges_from_scores(tokens, scores, types);
  out["model"]["byte_fallback"] = true;
  out["model"]["fuse_unk"] = true;
  const auto unknown = std::find(types.begin(), types.end(), kUnknown);
  if (unknown != types.end()) {
    out["model"]["unk_token"] = tokens[static_cast<std::size_t>(unknown - types.begin())];
  }
}

// The strings of an array, all of which must be UTF-8.
std::vector<std::string_view> utf8_strings(const Gguf& gguf, const char* key) {
  std::vector<std::string_view> strings = gguf.strings(key);
  for (const std::string_view text : strings) {
    if (!is_valid_utf8(text))
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key {}: a string is not UTF-8", gguf.where, key));
  }
  return strings;
}

void fill_byte_level(const Gguf& gguf, Json& out) {
  const std::string pre(gguf.string("tokenizer.ggml.pre").value_or("default"));
  const PreKind kind = pre_kind(pre, gguf.where);
  out["normalizer"] = kind.normalizer;
  out["pre_tokenizer"] = kind.pre_tokenizer;
  out["decoder"] = byte_level(true);
  Json merges = Json::array();
  for (const std::string_view merge : utf8_strings(gguf, "tokenizer.ggml.merges")) merges.push_back(merge);
  out["model"]["merges"] = std::move(merges);
  out["model"]["ignore_merges"] = kind.ignore_merges;
}

Json added_token(std::size_t id, std::string_view content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

}  // namespace

Json gguf_tokenizer_json(const Gguf& gguf) {
  const auto model = gguf.string("tokenizer.ggml.model");
  if (!model) throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", gguf.where));
  if (*model != "gpt2" && *model != "llama") {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: key tokenizer.ggml.model is '{}', expected gpt2 or llama", gguf.where, *model));
  }
  const std::vector<std::string_view> tokens = utf8_strings(gguf, "tokenizer.ggml.tokens");
  std::vector<std::int64_t> types = gguf.integers("tokenizer.ggml.token_type");
  if (types.empty()) types.assign(tokens.size(), 1);
  if (types.size() != tokens.size()) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key tokenizer.ggml.token_type: {} types for {} tokens",
                                                     gguf.where, types.size(), tokens.size()));
  }
  Json out = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  out["added_tokens"] = Json::array();
  Json vocab = Json::object();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    vocab[std::string(tokens[i])] = i;
    if (types[i] == kControl || types[i] == kUserDefined || (types[i] == kUnknown && *model == "llama")) {
      out["added_tokens"].push_back(added_token(i, tokens[i], types[i] != kUserDefined));
    }
  }
  out["model"] = {{"type", "BPE"}, {"vocab", std::move(vocab)}};
  if (*model == "llama") {
    fill_sentencepiece(gguf, tokens, types, out);
  } else {
    fill_byte_level(gguf, out);
  }
  const auto bos = gguf.integer("tokenizer.ggml.bos_token_id");
  const bool add_bos = gguf.boolean("tokenizer.ggml.add_bos_token").value_or(*model == "llama");
  if (add_bos && bos && *bos >= 0 && *bos < static_cast<std::int64_t>(tokens.size())) {
    const std::string token(tokens[static_cast<std::size_t>(*bos)]);
    const Json special = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
    const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    out["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", Json::array({special, text})},
        {"pair", Json::array({special, text, special, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}})},
        {"special_tokens", {{token, {{"id", token}, {"ids", {*bos}}, {"tokens", {token}}}}}}};
  } else {
    out["post_processor"] = nullptr;
  }
  return out;
}

}  // namespace metal_marlin

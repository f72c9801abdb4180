#include "tokenizer/stages.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMaxDepth = 32;  // Sequences within each other

struct StageKeys {
  std::string_view type;
  std::vector<std::string_view> keys;
};

// The fields of each type of stage. Not used, as there are no offsets here: trim_offsets, and what ByteLevel and
// RobertaProcessing have beside it where they are no pre_tokenizer. Not used either: pair, of two texts at once, and
// str_rep, the replacement again.
const std::vector<StageKeys>& stage_keys() {
  static const std::vector<StageKeys> all{
      {"NFC", {}},
      {"NFD", {}},
      {"NFKC", {}},
      {"NFKD", {}},
      {"Nmt", {}},
      {"Lowercase", {}},
      {"StripAccents", {}},
      {"Prepend", {"prepend"}},
      {"Replace", {"pattern", "content"}},
      {"Strip", {"strip_left", "strip_right", "content", "start", "stop"}},
      {"Precompiled", {"precompiled_charsmap"}},
      {"BertNormalizer", {"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}},
      {"ByteLevel", {"add_prefix_space", "trim_offsets", "use_regex"}},
      {"Split", {"pattern", "behavior", "invert"}},
      {"Digits", {"individual_digits"}},
      {"Punctuation", {"behavior"}},
      {"WhitespaceSplit", {}},
      {"Whitespace", {}},
      {"BertPreTokenizer", {}},
      {"CharDelimiterSplit", {"delimiter"}},
      {"FixedLength", {"length"}},
      {"Metaspace", {"replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"}},
      {"Fuse", {}},
      {"ByteFallback", {}},
      {"WordPiece", {"prefix", "cleanup"}},
      {"BPEDecoder", {"suffix"}},
      {"CTC", {"pad_token", "word_delimiter_token", "cleanup"}},
      {"TemplateProcessing", {"single", "pair", "special_tokens"}},
      {"BertProcessing", {"sep", "cls"}},
      {"RobertaProcessing", {"sep", "cls", "trim_offsets", "add_prefix_space"}}};
  return all;
}

void check_keys(const JsonObject& stage, const std::string& type) {
  const auto found = std::find_if(stage_keys().begin(), stage_keys().end(),
                                  [&](const StageKeys& known) { return known.type == type; });
  if (found == stage_keys().end()) return;  // a type that the caller refuses by name
  for (const auto& [key, value] : stage.json().items()) {
    if (key != "type") stage.only_key(key, found->keys);
  }
}

void walk(const Json& json, const std::string& where, const char* members, int depth,
          const std::function<void(const JsonObject&)>& add) {
  const JsonObject object(json, where);
  const std::string type = object.string("type");
  if (type != "Sequence") {
    check_keys(object, type);
    return add(object);
  }
  if (depth == kMaxDepth) unsupported_stage(object, fmt::format("a Sequence in {} others", kMaxDepth));
  const Json& list = object.at(members);
  if (!list.is_array()) object.wrong(members, "an array");
  for (std::size_t i = 0; i < list.size(); ++i) walk(list[i], fmt::format("{}[{}]", where, i), members, depth + 1, add);
}

}  // namespace

void for_each_stage(const Json& json, const std::string& where, const char* members,
                    const std::function<void(const JsonObject&)>& add) {
  if (!json.is_null()) walk(json, where, members, 0, add);
}

Regex parse_pattern(const JsonObject& json) {
  const JsonObject pattern = json.object("pattern");
  if (pattern.has("String")) return Regex::literal(pattern.string("String"), pattern.where());
  return Regex(pattern.string("Regex"), pattern.where());
}

std::string parse_character(const JsonObject& json, const char* key) {
  std::string text = json.string(key);
  std::size_t end = 0;
  if (!text.empty()) next_character(text, end);
  if (text.empty() || end != text.size()) json.wrong(key, "one character");
  return text;
}

void unsupported_stage(const JsonObject& json, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} is not supported", json.where(), what));
}

}  // namespace metal_marlin

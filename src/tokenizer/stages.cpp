#include "tokenizer/stages.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMaxDepth = 32;  // Sequences within each other

void walk(const Json& json, const std::string& where, const char* members, int depth,
          const std::function<void(const JsonObject&)>& add) {
  const JsonObject object(json, where);
  if (object.string("type") != "Sequence") return add(object);
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

#include "tokenizer/stages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMaxDepth = 32;  // Sequences within each other

const char* expected(FieldKind kind) {
  switch (kind) {
    case FieldKind::kFlag: return "true or false";
    case FieldKind::kText: return "a string";
    case FieldKind::kCharacter: return "one character";
    case FieldKind::kCount: return "a count";
    case FieldKind::kId: return "an integer from 0 to 2^32 - 1";
    case FieldKind::kAny: break;
  }
  return "a value";
}

bool is_character(const std::string& text) {
  std::size_t end = 0;
  if (!text.empty()) next_character(text, end);
  return !text.empty() && end == text.size();
}

bool holds(const Json& value, FieldKind kind) {
  switch (kind) {
    case FieldKind::kFlag: return value.is_boolean();
    case FieldKind::kText: return value.is_string();
    case FieldKind::kCharacter: return value.is_string() && is_character(value.get_ref<const std::string&>());
    case FieldKind::kCount: return value.is_number_unsigned();
    case FieldKind::kId: return value.is_number_unsigned() && value.get<std::uint64_t>() <= UINT32_MAX;
    case FieldKind::kAny: break;
  }
  return true;
}

void walk(const JsonObject& object, std::string_view role, const char* members, std::span<const StageType> types,
          int depth, const std::function<void(const JsonObject&)>& add) {
  const std::string type = object.string("type");
  if (type != "Sequence") {
    const auto found =
        std::find_if(types.begin(), types.end(), [&](const StageType& known) { return known.type == type; });
    if (found == types.end()) unsupported_stage(object, fmt::format("{} type {}", role, type));
    std::vector<JsonField> fields = found->fields;
    fields.push_back({"type", FieldKind::kText});
    check_fields(object, fields);
    return add(object);
  }
  if (depth == kMaxDepth) unsupported_stage(object, fmt::format("a Sequence in {} others", kMaxDepth));
  const Json& list = object.at(members);
  if (!list.is_array()) object.wrong(members, "an array");
  for (std::size_t i = 0; i < list.size(); ++i) {
    walk(JsonObject(list[i], fmt::format("{}[{}]", object.where(), i)), role, members, types, depth + 1, add);
  }
}

}  // namespace

void check_fields(const JsonObject& json, std::span<const JsonField> fields) {
  std::vector<std::string_view> names;
  for (const JsonField& field : fields) names.push_back(field.name);
  json.only(names);
  for (const JsonField& field : fields) {
    const auto found = json.json().find(field.name);
    const bool missing = found == json.json().end();
    if (missing ? field.need != FieldNeed::kRequired : found->is_null() && field.need == FieldNeed::kNullable) {
      continue;
    }
    if (missing || found->is_null() || !holds(*found, field.kind)) {
      json.wrong(std::string(field.name).c_str(), expected(field.kind));
    }
  }
}

void for_each_stage(const Json& json, const std::string& where, std::string_view role, const char* members,
                    std::span<const StageType> types, const std::function<void(const JsonObject&)>& add) {
  if (!json.is_null()) walk(JsonObject(json, where), role, members, types, 0, add);
}

std::string only_field(const JsonObject& json, std::span<const std::string_view> names) {
  const Json& object = json.json();
  const bool known = object.size() == 1 && std::find(names.begin(), names.end(), object.begin().key()) != names.end();
  if (!known) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: found {} fields, expected one of {} alone", json.where(),
                                                     object.size(), fmt::join(names, ", ")));
  }
  return object.begin().key();
}

Regex parse_pattern(const JsonObject& json) {
  constexpr std::array<std::string_view, 2> kKinds{"String", "Regex"};
  const JsonObject pattern = json.object("pattern");
  if (only_field(pattern, kKinds) == "String") return Regex::literal(pattern.string("String"), pattern.where());
  return Regex(pattern.string("Regex"), pattern.where());
}

std::size_t parse_choice(const JsonObject& json, const char* key, std::span<const std::string_view> names) {
  const auto found =
      json.has(key) && json.at(key).is_string() ? std::find(names.begin(), names.end(), json.string(key)) : names.end();
  if (found == names.end()) json.wrong(key, fmt::format("one of {}", fmt::join(names, ", ")));
  return static_cast<std::size_t>(found - names.begin());
}

PrependScheme parse_prepend_scheme(const JsonObject& json) {
  constexpr std::array<std::string_view, 3> kNames{"always", "never", "first"};
  const bool given = json.has("prepend_scheme");
  const auto scheme =
      given ? static_cast<PrependScheme>(parse_choice(json, "prepend_scheme", kNames)) : PrependScheme::kAlways;
  if (json.boolean_or("add_prefix_space", true)) return scheme;
  if (given && scheme != PrependScheme::kNever) json.wrong("add_prefix_space", "true, as prepend_scheme has it");
  return PrependScheme::kNever;  // as files had it before there was a prepend_scheme
}

const std::vector<JsonField>& byte_level_fields() {
  static const std::vector<JsonField> all{{"add_prefix_space", FieldKind::kFlag},
                                          {"trim_offsets", FieldKind::kFlag},
                                          {"use_regex", FieldKind::kFlag, FieldNeed::kOptional}};
  return all;
}

const std::vector<JsonField>& metaspace_fields() {
  static const std::vector<JsonField> all{{"replacement", FieldKind::kCharacter},
                                          {"prepend_scheme", FieldKind::kText, FieldNeed::kOptional},
                                          {"add_prefix_space", FieldKind::kFlag, FieldNeed::kNullable},
                                          {"split", FieldKind::kFlag, FieldNeed::kNullable},
                                          {"str_rep", FieldKind::kText, FieldNeed::kNullable}};
  return all;
}

void unsupported_stage(const JsonObject& json, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} is not supported", json.where(), what));
}

}  // namespace metal_marlin

#include "grammar/json_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kLongestKey = 400;  // that others are told apart from

// Characters that a string has by escapes alone.
const Characters& escaped_characters() {
  static const Characters out{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  return out;
}

// The one spelling of such a character.
std::string escape_of(char32_t c) {
  constexpr std::array<std::pair<char32_t, std::string_view>, 7> kEscapes{
      {{'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"}, {'\n', "\\n"}, {'\r', "\\r"}, {'\t', "\\t"}}};
  for (const auto& [of, text] : kEscapes) {
    if (of == c) return std::string(text);
  }
  return fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
}

std::u32string characters_of(std::string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) out += next_character(text, at);
  return out;
}

}  // namespace

std::string compact_json(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

ExpressionId JsonRules::once(std::optional<RuleId>& rule, const char* name, ExpressionId (JsonRules::*make)()) {
  if (!rule) {
    rule = rules_.declare(name);
    rules_.define(*rule, (this->*make)());
  }
  return rules_.call(*rule);
}

ExpressionId JsonRules::value() {
  return once(value_, "value", &JsonRules::make_value);
}
ExpressionId JsonRules::object() {
  return once(object_, "object", &JsonRules::make_object);
}
ExpressionId JsonRules::array() {
  return once(array_, "array", &JsonRules::make_array);
}
ExpressionId JsonRules::string() {
  return once(string_, "string", &JsonRules::make_string);
}
ExpressionId JsonRules::number() {
  return once(number_, "number", &JsonRules::make_number);
}
ExpressionId JsonRules::character() {
  return once(character_, "character", &JsonRules::make_character);
}
ExpressionId JsonRules::boolean() {
  return rules_.any_of({rules_.text("true"), rules_.text("false")});
}
ExpressionId JsonRules::integer() {
  return bounded_number({});
}

ExpressionId JsonRules::separator(const char* what) {
  return rules_.sequence({rules_.text(what), rules_.optional(rules_.text(" "))});
}

ExpressionId JsonRules::list(const char* open, ExpressionId item, const char* close) {
  const ExpressionId more = rules_.repeat(rules_.sequence({comma(), item}), 0, std::nullopt);
  return rules_.sequence({rules_.text(open), rules_.optional(rules_.sequence({item, more})), rules_.text(close)});
}

ExpressionId JsonRules::make_value() {
  return rules_.any_of({object(), array(), string(), number(), boolean(), null()});
}
ExpressionId JsonRules::make_object() {
  return list("{", rules_.sequence({string(), colon(), value()}), "}");
}
ExpressionId JsonRules::make_array() {
  return list("[", value(), "]");
}
ExpressionId JsonRules::make_string() {
  return rules_.sequence({rules_.text("\""), rules_.repeat(character(), 0, std::nullopt), rules_.text("\"")});
}

ExpressionId JsonRules::make_number() {
  const ExpressionId digit = rules_.characters({{'0', '9'}});
  const ExpressionId digits = rules_.repeat(digit, 1, std::nullopt);
  const ExpressionId fraction = rules_.sequence({rules_.text("."), digits});
  const ExpressionId exponent = rules_.sequence({rules_.characters({{'e', 'e'}, {'E', 'E'}}),
                                                 rules_.optional(rules_.characters({{'+', '+'}, {'-', '-'}})), digits});
  return rules_.sequence({rules_.optional(rules_.text("-")), bounded_number({0, {}, 1, 0}), rules_.optional(fraction),
                          rules_.optional(exponent)});
}

// Escapes of one character are one, pairs of surrogates too, so that repeats count characters.
ExpressionId JsonRules::make_character() {
  const Characters hexes{{'0', '9'}, {'a', 'f'}, {'A', 'F'}};
  const ExpressionId hex = rules_.characters(hexes);
  const ExpressionId d = rules_.characters({{'d', 'd'}, {'D', 'D'}});
  const ExpressionId not_d = rules_.characters(hexes.without({{'d', 'd'}, {'D', 'D'}}));
  const ExpressionId plain = rules_.any_of(
      {rules_.sequence({not_d, hex, hex, hex}), rules_.sequence({d, rules_.characters({{'0', '7'}}), hex, hex})});
  const ExpressionId high = rules_.sequence({d, rules_.characters({{'8', '9'}, {'a', 'b'}, {'A', 'B'}}), hex, hex});
  const ExpressionId low = rules_.sequence({d, rules_.characters({{'c', 'f'}, {'C', 'F'}}), hex, hex});
  const ExpressionId pair = rules_.sequence({high, rules_.text("\\u"), low});
  const Characters shorts{{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'},
                          {'f', 'f'}, {'n', 'n'},   {'r', 'r'}, {'t', 't'}};
  return rules_.any_of({rules_.characters(escaped_characters().complement()),
                        rules_.sequence({rules_.text("\\"), rules_.characters(shorts)}),
                        rules_.sequence({rules_.text("\\u"), rules_.any_of({plain, pair})})});
}

ExpressionId JsonRules::character_of(const Characters& set) {
  std::vector<ExpressionId> out{rules_.characters(set.without(escaped_characters()))};
  const Characters escaped = set.intersection(escaped_characters());
  for (const CharacterRange range : escaped.ranges()) {
    for (char32_t c = range.low; c <= range.high; ++c) out.push_back(rules_.text(escape_of(c)));
  }
  return rules_.any_of(std::move(out));
}

ExpressionId JsonRules::literal(std::string_view text) {
  return rules_.text(compact_json(OrderedJson(text)));
}

ExpressionId JsonRules::constant(const OrderedJson& value) {
  if (!value.is_structured()) return rules_.text(compact_json(value));
  std::vector<ExpressionId> out{rules_.text(value.is_object() ? "{" : "[")};
  for (const auto& [key, item] : value.items()) {
    if (out.size() > 1) out.push_back(comma());
    if (value.is_object()) {
      out.push_back(literal(key));
      out.push_back(colon());
    }
    out.push_back(constant(item));
  }
  out.push_back(rules_.text(value.is_object() ? "}" : "]"));
  return rules_.sequence(std::move(out));
}

// The end of a string that is none of the texts, which are sorted and alike before `at`.
ExpressionId JsonRules::none_of(std::span<const std::u32string> texts, std::size_t at) {
  if (at > kLongestKey)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("a property's name is longer than {}", kLongestKey));
  const ExpressionId end = rules_.text("\"");
  std::vector<ExpressionId> out;
  Characters others = Characters::all();
  if (texts.empty() || texts.front().size() != at) out.push_back(end);
  for (std::size_t begin = !texts.empty() && texts.front().size() == at ? 1 : 0; begin < texts.size();) {
    const char32_t c = texts[begin][at];
    std::size_t last = begin;
    while (last < texts.size() && texts[last][at] == c) ++last;
    others = others.without({{c, c}});
    out.push_back(rules_.sequence({character_of({{c, c}}), none_of(texts.subspan(begin, last - begin), at + 1)}));
    begin = last;
  }
  out.push_back(rules_.sequence({character_of(others), once(key_end_, "key's end", &JsonRules::make_key_end)}));
  return rules_.any_of(std::move(out));
}

ExpressionId JsonRules::make_key_end() {
  return rules_.sequence({rules_.repeat(character_of(Characters::all()), 0, std::nullopt), rules_.text("\"")});
}

ExpressionId JsonRules::other_string(const std::vector<std::string>& texts) {
  if (texts.empty()) return string();
  std::vector<std::u32string> characters;
  for (const std::string& text : texts) characters.push_back(characters_of(text));
  std::sort(characters.begin(), characters.end());
  characters.erase(std::unique(characters.begin(), characters.end()), characters.end());
  return rules_.rule("other key", rules_.sequence({rules_.text("\""), none_of(characters, 0)}));
}

}  // namespace metal_marlin

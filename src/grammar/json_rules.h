// Rules of JSON texts.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/rules.h"
#include "io/json.h"

namespace metal_marlin {

// Of at least 38 digits.
__extension__ typedef __int128 WideInteger;  // NOLINT(modernize-use-using): there it would be no extension

// Numbers of at most so many decimals from `least` to `most`, where there are such bounds, that `multiple` divides; all
// three in units of the last decimal.
struct NumberBounds {
  std::optional<WideInteger> least;
  std::optional<WideInteger> most;
  std::int64_t multiple = 1;
  int places = 0;
};

// Expressions for JSON's values; each rule is made once. Between tokens there is nothing, or one space behind ',' and
// ':'.
class JsonRules {
 public:
  explicit JsonRules(Rules& rules) : rules_(rules) {}

  ExpressionId value();
  ExpressionId object();
  ExpressionId array();
  ExpressionId string();
  ExpressionId number();
  ExpressionId integer();
  ExpressionId boolean();
  ExpressionId null() { return rules_.text("null"); }
  ExpressionId comma() { return separator(","); }
  ExpressionId colon() { return separator(":"); }

  // One character in a string, in any of its spellings.
  ExpressionId character();
  // The same for a set: as it is, or by a short escape where JSON wants one.
  ExpressionId character_of(const Characters& set);
  // A text between quotes, spelled in one way.
  ExpressionId literal(std::string_view text);
  // A value, members in its own order.
  ExpressionId constant(const OrderedJson& value);
  // A string in the same spelling that is none of these.
  ExpressionId other_string(const std::vector<std::string>& texts);
  ExpressionId bounded_number(const NumberBounds& bounds);

 private:
  ExpressionId separator(const char* what);
  ExpressionId once(std::optional<RuleId>& rule, const char* name, ExpressionId (JsonRules::*make)());
  ExpressionId make_value();
  ExpressionId make_object();
  ExpressionId make_array();
  ExpressionId make_string();
  ExpressionId make_number();
  ExpressionId make_character();
  ExpressionId make_key_end();
  ExpressionId list(const char* open, ExpressionId item, const char* close);
  ExpressionId none_of(std::span<const std::u32string> texts, std::size_t at);

  Rules& rules_;
  std::optional<RuleId> value_, object_, array_, string_, number_, character_, key_end_;
};

// Compact JSON, as constant() has it but for the spaces.
std::string compact_json(const OrderedJson& value);

}  // namespace metal_marlin

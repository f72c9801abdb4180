// How a model writes calls of tools, as data: what stands around them, and how name and arguments lie within.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace metal_marlin {

enum class CallKind {
  kObject,      // a JSON object with members for the name and the arguments
  kNamed,       // the name, then the arguments as one value
  kParameters,  // the name, then each argument between tags of its own
  kHarmony      // messages with a channel and a recipient
};

// How a value of arguments is spelled.
enum class ValueDialect { kJson, kPython, kGemma };

// Texts are spelled as templates write them. A reader takes any white space where one of them has some, and leaves away
// what is at their ends.
struct ToolFormat {
  std::string name;
  CallKind kind = CallKind::kObject;
  std::string section_open;  // around all calls
  std::string section_close;
  std::string list_open;  // around them, within the section
  std::string list_close;
  std::string separator;  // between two calls
  std::string call_open;  // before each; where there is a name behind it, up to it
  std::string call_close;
  // A call is only what an answer begins with; then section_open may be left out.
  bool only_at_start = false;

  // Of objects; without a name_key an object's only key is the name.
  std::string name_key = "name";
  std::string arguments_key = "arguments";
  std::string id_key;

  // Of names that stand alone.
  std::string name_prefix;  // that is not part of the name
  std::string id_open;      // between the name and an id
  bool is_indexed = false;  // ':' and a number follow the name; all of it, with the prefix, is the id
  std::string name_close;   // none: a name ends where arguments begin
  ValueDialect dialect = ValueDialect::kJson;

  // Of tagged parameters.
  std::string key_open;
  std::string key_close;
  std::string json_key_close;  // where this comes instead the value is JSON, and a text behind key_close
  std::string value_close;

  // Ids have so many letters and digits, and nothing else; 0: any text will do.
  int id_size = 0;

  [[nodiscard]] bool is_section() const { return !section_open.empty() || !list_open.empty(); }
};

// What stands around a format's calls and their parts: tokens for these must be part of a text that is to be read.
std::vector<std::string> delimiters_of(const ToolFormat& format);

// Those that are known by name, those that say more about a text first.
std::span<const ToolFormat> known_tool_formats();

// A function that may be called.
struct ToolFunction {
  std::string name;
  std::string parameters;  // JSON Schema; empty: any object
  bool strict = false;
};

}  // namespace metal_marlin

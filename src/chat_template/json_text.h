// JSON to values and back, as Python's json module has it.
#pragma once

#include <string>
#include <string_view>

#include "chat_template/value.h"

namespace metal_marlin::jinja {

// \throws Error (kInvalidArgument) naming `where` and the position.
Value parse_json_value(std::string_view text, const std::string& where);

struct JsonStyle {
  bool ascii = false;
  bool sorted = false;
  const std::string* indent = nullptr;  // of a level; null: all on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// \throws Failure (kPython) for what JSON has no word for.
std::string write_json_value(const Value& value, const JsonStyle& style);

}  // namespace metal_marlin::jinja

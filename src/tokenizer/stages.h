// What the stages of a tokenizer.json have in common.
#pragma once

#include <functional>
#include <string>

#include "base/regex.h"
#include "io/json.h"

namespace metal_marlin {

// Calls `add` for the stage, or for each member of a Sequence, at any depth; `members` names a Sequence's list.
void for_each_stage(const Json& json, const std::string& where, const char* members,
                    const std::function<void(const JsonObject&)>& add);
// The field `pattern`: {"String": "x"} or {"Regex": "x"}.
Regex parse_pattern(const JsonObject& json);
// A field that holds one character.
std::string parse_character(const JsonObject& json, const char* key);
[[noreturn]] void unsupported_stage(const JsonObject& json, const std::string& what);

}  // namespace metal_marlin

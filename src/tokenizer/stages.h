// What the stages of a tokenizer.json have in common.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/regex.h"
#include "io/json.h"

namespace metal_marlin {

enum class FieldKind { kFlag, kText, kCharacter, kCount, kId, kAny };
enum class FieldNeed { kRequired, kOptional, kNullable };  // kOptional: may be missing, but not null

// What a field may hold, and whether it must be there, as the tokenizers library has it: a file that it refuses has
// been damaged or was written for another program.
struct JsonField {
  std::string_view name;
  FieldKind kind;
  FieldNeed need = FieldNeed::kRequired;
};

// \throws Error naming a field that is missing, of another kind or none of these.
void check_fields(const JsonObject& json, std::span<const JsonField> fields);

struct StageType {
  std::string_view type;
  std::vector<JsonField> fields;
};

// Calls `add` for the stage, or for each member of a Sequence, at any depth, once its fields are checked; `members`
// names a Sequence's list. \throws Error (kUnsupported) for a type that `types` lacks, as a type of `role`.
void for_each_stage(const Json& json, const std::string& where, std::string_view role, const char* members,
                    std::span<const StageType> types, const std::function<void(const JsonObject&)>& add);
// The field `pattern`: {"String": "x"} or {"Regex": "x"}.
Regex parse_pattern(const JsonObject& json);
// A field with one of these names. \throws Error naming them all.
std::size_t parse_choice(const JsonObject& json, const char* key, std::span<const std::string_view> names);
// Where a Metaspace puts its character before a text.
enum class PrependScheme { kAlways, kNever, kFirst };
PrependScheme parse_prepend_scheme(const JsonObject& json);
// The fields of stages that have more than one role. Not used, as there are no offsets here: trim_offsets, and what
// ByteLevel has beside it where it is no pre_tokenizer. Nor is str_rep, the replacement again.
const std::vector<JsonField>& byte_level_fields();
const std::vector<JsonField>& metaspace_fields();
// The only field of an object that says by its name what it holds.
std::string only_field(const JsonObject& json, std::span<const std::string_view> names);
[[noreturn]] void unsupported_stage(const JsonObject& json, const std::string& what);

}  // namespace metal_marlin

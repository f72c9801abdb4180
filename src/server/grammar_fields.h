// What an answer must look like, as a request says it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "server/fields.h"

namespace metal_marlin::server {

// A grammar before it is compiled.
struct GrammarText {
  enum class Kind : std::uint8_t { kJsonObject, kSchema, kRegex, kChoice, kGbnf };
  Kind kind = Kind::kJsonObject;
  std::string text;   // of choices: a JSON list
  std::string field;  // that it came from
};

// Of completions: OpenAI's response_format, vLLM's guided_* and structured_outputs, llama.cpp's grammar and
// json_schema. None: any text will do. \throws ApiError naming the field, also where two say something.
std::optional<GrammarText> read_grammar(Fields& fields);
// Of responses: text.format, and the same but for response_format.
std::optional<GrammarText> read_response_grammar(Fields& fields);
// Of Anthropic's API: output_config.format or output_format in its place.
std::optional<GrammarText> read_message_grammar(Fields& fields);

}  // namespace metal_marlin::server

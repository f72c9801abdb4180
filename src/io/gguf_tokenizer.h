// The tokenizer in a GGUF file's metadata, as a tokenizer.json.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/json.h"

namespace metal_marlin {

// Tokens with a part of their own, as llama.cpp has them: those of the file's keys, else the usual ones of the kind of
// tokenizer. -1: none.
struct GgufSpecialTokens {
  std::int64_t begin = -1;
  std::int64_t end = -1;
  std::int64_t separator = -1;
  std::int64_t unknown = -1;
  std::int64_t padding = -1;
  std::vector<std::int64_t> ends;  // all that end an answer: `end`, those of other keys, and those told by their texts
};
// notice: told what stands in for a key that is missing or names no token, if not empty.
GgufSpecialTokens gguf_special_tokens(const Gguf& gguf, const std::function<void(const std::string&)>& notice = {});

// \throws Error (kNotFound) when the file has no tokenizer, (kUnsupported)
// naming a tokenizer model or pre-tokenizer that we do not know.
Json gguf_tokenizer_json(const Gguf& gguf);

}  // namespace metal_marlin

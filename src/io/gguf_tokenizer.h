// The tokenizer in a GGUF file's metadata, as a tokenizer.json.
#pragma once

#include "io/gguf.h"
#include "io/json.h"

namespace metal_marlin {

// \throws Error (kNotFound) when the file has no tokenizer, (kUnsupported)
// naming a tokenizer model or pre-tokenizer that we do not know.
Json gguf_tokenizer_json(const Gguf& gguf);

}  // namespace metal_marlin

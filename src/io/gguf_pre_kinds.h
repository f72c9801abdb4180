// The ways to split text that `tokenizer.ggml.pre` names.
#pragma once

#include <string_view>
#include <vector>

namespace metal_marlin {

struct GgufPreKind {
  std::vector<std::string_view> names;
  std::vector<std::string_view> patterns;  // each splits what the ones before it left
  bool ignore_merges;
  bool add_bos;     // where the file does not say
  bool plain_utf8;  // text with U+2581 for spaces, not the byte-level alphabet
};

// Nothing for a name that is none of llama.cpp's.
const GgufPreKind* find_gguf_pre_kind(std::string_view name);

}  // namespace metal_marlin

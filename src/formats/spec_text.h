// A FormatSpec in the words that flags and files have for it.
#pragma once

#include <string_view>

#include "metal_marlin/format.h"

namespace metal_marlin {

// An empty word: what the format's default is.
struct SpecText {
  std::string_view format;
  std::string_view group = {};
  std::string_view scale_type = {};
  std::string_view zero = {};
  std::string_view sparsity = {};
  int rotation = 0;
};

// \throws Error (kInvalidArgument) naming the word, or the combination that the format does not allow.
FormatSpec parse_spec(const SpecText& text);

}  // namespace metal_marlin

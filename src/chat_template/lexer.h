// A template's tokens, with white space trimmed as trim_blocks and lstrip_blocks have it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat_template/value.h"

namespace metal_marlin::jinja {

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct LexedToken {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // data, name, string's value, operator
  Value number;
};

// \throws Failure (kSyntax).
std::vector<LexedToken> tokenize(std::string_view source);

}  // namespace metal_marlin::jinja

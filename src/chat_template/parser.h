// A template's text to its syntax tree.
#pragma once

#include <string_view>

#include "chat_template/ast.h"

namespace metal_marlin::jinja {

// \throws Failure (kSyntax) with jinja2's message.
Body parse(std::string_view source);

}  // namespace metal_marlin::jinja

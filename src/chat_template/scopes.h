// Which variable each name of a template is. jinja2 decides that when it compiles a template, frame by frame: a name
// that a block assigns to is the block's own, and begins as the one outside; a name that nothing assigns to is looked
// up in the context when its frame is entered.
#pragma once

#include "chat_template/ast.h"

namespace metal_marlin::jinja {

// Finds the places of names, and refuses filters and tests that are not there.
// \throws Failure (kSyntax).
Tree resolve(Body body);

}  // namespace metal_marlin::jinja

// Calls as a grammar: what an answer must look like that has to make some.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "metal_marlin/grammar.h"
#include "tool_calls/tool_format.h"

namespace metal_marlin {

struct CallGrammarOptions {
  bool parallel = true;    // more than one call may be made
  bool free_text = false;  // any text may stand before the calls, or in their place
};

// \throws Error (kInvalidArgument) naming the function and what is wrong with its parameters, or what a grammar cannot
// say of them.
std::shared_ptr<const Grammar> call_grammar(const ToolFormat& format, const std::vector<ToolFunction>& functions,
                                            const CallGrammarOptions& options);

// Whether free text can be told from calls by a grammar: an answer that may begin with a call and nothing else cannot.
bool has_free_text(const ToolFormat& format);

}  // namespace metal_marlin

// How a model writes calls, told by what its chat template makes of a conversation that has some.
#pragma once

#include <optional>

#include "metal_marlin/chat_template.h"
#include "tool_calls/tool_format.h"

namespace metal_marlin {

struct DetectedTools {
  ToolFormat format;
  bool is_known = true;        // by name; else it was made of what the template wrote
  bool is_rendered = true;     // else the template writes no calls, but speaks of them in their known form
  bool takes_texts = false;    // the template is given arguments as text, not as an object
  bool takes_null = false;     // the content of a message with calls is null where there is none; else an empty text
  bool takes_parallel = true;  // a message may have several calls
};

// none: the template has no calls that can be told.
std::optional<DetectedTools> detect_tools(const ChatTemplate& chat);

}  // namespace metal_marlin

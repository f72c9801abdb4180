#include "tool_calls/call_parser.h"

#include "tool_calls/delimited_parser.h"
#include "tool_calls/harmony_parser.h"

namespace metal_marlin {

std::unique_ptr<CallParser> CallParser::make(const ToolFormat& format, const std::vector<ToolFunction>& functions,
                                             bool parallel) {
  if (format.kind == CallKind::kHarmony) return std::make_unique<HarmonyParser>(format, functions, parallel);
  return std::make_unique<DelimitedParser>(format, functions, parallel);
}

}  // namespace metal_marlin

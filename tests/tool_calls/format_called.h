// Part of the tests of this folder.
#pragma once

#include <algorithm>
#include <string_view>

#include "tool_calls/tool_format.h"

namespace metal_marlin {

inline const ToolFormat& format_called(std::string_view name) {
  const auto all = known_tool_formats();
  return *std::find_if(all.begin(), all.end(), [&](const ToolFormat& each) { return each.name == name; });
}

}  // namespace metal_marlin

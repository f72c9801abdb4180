// Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
#pragma once

#include <string>
#include <string_view>

#include "server/json_text.h"

namespace metal_marlin::server {

constexpr std::string_view kSseType = "text/event-stream; charset=utf-8";
constexpr std::string_view kSseDone = "data: [DONE]\n\n";

// JSON has no line ends of its own, so that one line holds it.
inline std::string sse_data(const OrderedJson& value) {
  return "data: " + json_text(value) + "\n\n";
}

inline std::string sse_event(std::string_view name, const OrderedJson& value) {
  return "event: " + std::string(name) + "\n" + sse_data(value);
}

}  // namespace metal_marlin::server

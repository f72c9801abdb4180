// Arbitrary bytes as an answer in the format that the first byte says: in two pieces, cut where the second says, it has
// the same calls as whole, nothing of it is lost, and the arguments of calls are JSON.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/unicode.h"
#include "tool_calls/call_parser.h"

namespace {

using namespace metal_marlin;

struct Answer {
  std::string text;
  std::string calls;
  std::string arguments;

  bool operator==(const Answer&) const = default;
};

void add(Answer& answer, const CallEvents& events) {
  for (const CallEvent& event : events) {
    switch (event.kind) {
      case CallEvent::Kind::kBegin:
        answer.calls += "\n" + event.name + " " + event.id + " ";
        answer.arguments.clear();
        break;
      case CallEvent::Kind::kArguments:
        answer.calls += event.text;
        answer.arguments += event.text;
        break;
      case CallEvent::Kind::kEnd:
        if (!nlohmann::json::accept(sanitize_utf8(answer.arguments))) __builtin_trap();
        answer.calls += ".";
        break;
      default: answer.text += event.text;
    }
  }
}

Answer parse(const ToolFormat& format, std::string_view first, std::string_view second) {
  static const std::vector<ToolFunction> functions = {
      {"f", R"({"properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":["string","null"]}}})", false},
      {"now", "", false}};
  const auto parser = CallParser::make(format, functions, true);
  Answer answer;
  for (const std::string_view piece : {first, second}) {
    CallEvents events;
    parser->push(piece, events);
    add(answer, events);
  }
  CallEvents rest;
  parser->finish(rest);
  add(answer, rest);
  return answer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2 || size > 4096) return 0;
  const auto formats = known_tool_formats();
  const ToolFormat& format = formats[data[0] % formats.size()];
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t cut = text.empty() ? 0 : data[1] % (text.size() + 1);
  if (parse(format, text, {}) != parse(format, text.substr(0, cut), text.substr(cut))) __builtin_trap();
  return 0;
}

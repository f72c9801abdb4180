// Answers that are messages, each with a channel and maybe a recipient.
#pragma once

#include <cstdint>
#include <optional>

#include "tool_calls/call_parser.h"
#include "tool_calls/call_reader.h"
#include "tool_calls/value_reader.h"

namespace metal_marlin {

class HarmonyParser final : public CallParser {
 public:
  HarmonyParser(const ToolFormat& format, const std::vector<ToolFunction>& functions, bool parallel);
  void push(std::string_view text, CallEvents& out) override;
  void finish(CallEvents& out) override;

 private:
  enum class Stage : std::uint8_t { kHeader, kBody, kIgnored };

  bool advance(bool last, CallEvents& out);
  bool read_header(bool last, CallEvents& out);
  bool read_body(bool last, CallEvents& out);
  void open_message(std::string_view header);
  void add_body(std::string_view text, bool last, CallEvents& out);
  void add_arguments(std::string_view text, bool last, CallEvents& out);
  void break_call(CallEvents& out);
  void end_message(CallEvents& out);
  static void tell(CallEvents& out, CallEvent::Kind kind, std::string_view text);

  ToolFormat format_;
  ToolFunctions functions_;
  bool parallel_;
  Stage stage_ = Stage::kHeader;
  std::string held_;
  std::string raw_;                                // of a call
  std::string pending_;                            // of its body, that is not read yet
  std::string function_;                           // that the message calls
  CallEvent::Kind kind_ = CallEvent::Kind::kText;  // of a message that calls none
  std::optional<ValueReader> arguments_;
  bool told_ = false;
};

}  // namespace metal_marlin

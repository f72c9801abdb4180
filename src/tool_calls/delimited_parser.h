// Calls that stand between delimiters in a text.
#pragma once

#include <cstdint>
#include <optional>

#include "tool_calls/call_parser.h"
#include "tool_calls/call_reader.h"
#include "tool_calls/delimiter.h"
#include "tool_calls/text_place.h"

namespace metal_marlin {

class DelimitedParser final : public CallParser {
 public:
  DelimitedParser(const ToolFormat& format, const std::vector<ToolFunction>& functions, bool parallel);
  void push(std::string_view text, CallEvents& out) override;
  void finish(CallEvents& out) override;

 private:
  enum class Stage : std::uint8_t { kText, kSection, kCall, kClose, kIgnored };

  bool advance(bool last, CallEvents& out);
  bool read_text(bool last, CallEvents& out);
  bool read_section(bool last, CallEvents& out);
  bool open_list(std::size_t begin, bool last, CallEvents& out);
  std::optional<bool> close_section(std::size_t begin, bool last);
  bool read_next_call(std::size_t begin, bool last, CallEvents& out);
  bool read_call(bool last, CallEvents& out);
  bool read_close(bool last, CallEvents& out);

  DelimiterMatch find_open(std::string_view text, bool at_start) const;
  void open(std::size_t space, std::size_t at, std::size_t size);
  void begin_call();
  void take(std::size_t size);
  void end_call(CallEvents& out);
  void leave_section();
  void break_call(CallEvents& out);
  void tell_call(CallEvents& out);
  void release(std::size_t size, CallEvents& out);

  ToolFormat format_;
  ToolFunctions functions_;
  bool parallel_;
  Stage stage_ = Stage::kText;
  TextPlace place_;
  std::string held_;         // what was not dealt with yet
  std::string raw_;          // of the call that is read
  std::size_t opened_ = 0;   // where in it what opened it stands
  bool at_start_ = true;     // of the answer: nothing but white space and calls so far
  bool after_call_ = false;  // white space there is nobody's
  bool is_first_ = true;     // call of its section
  bool in_list_ = false;
  bool told_ = false;  // that the call began
  std::optional<CallReader> call_;
};

}  // namespace metal_marlin

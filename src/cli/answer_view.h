// An answer on the standard output, as it comes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "chat_template/reasoning.h"

namespace metal_marlin::cli {

// Whether the standard output is a terminal whose user wants colours (NO_COLOR).
bool has_colours();

class AnswerView {
 public:
  // tags: of thoughts, which are dim in colours, and otherwise stand between the tags. inside: the answer begins in
  // one.
  AnswerView(std::optional<ReasoningTags> tags, bool inside, bool colours);
  // Ends dim text whatever happened.
  ~AnswerView();
  AnswerView(const AnswerView&) = delete;
  AnswerView& operator=(const AnswerView&) = delete;

  // \throws Error (kIo).
  void push(std::string_view text);
  void finish();

  [[nodiscard]] const std::string& text() const { return text_; }  // all that was pushed
  [[nodiscard]] const std::string& reasoning() const { return reasoning_; }
  [[nodiscard]] const std::string& content() const { return content_; }

 private:
  void show(const ReasoningSplitter::Parts& parts);
  void end_thought();
  void print(std::string_view text);

  std::optional<ReasoningTags> tags_;
  ReasoningSplitter splitter_;
  bool colours_;
  bool in_thought_ = false;  // as it is shown
  std::string text_;
  std::string reasoning_;
  std::string content_;
};

}  // namespace metal_marlin::cli

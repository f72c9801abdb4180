#include "cli/answer_view.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "base/printable.h"
#include "cli/streams.h"

namespace metal_marlin::cli {
namespace {

constexpr const char* kDim = "\033[2m";
constexpr const char* kNotDim = "\033[0m";

}  // namespace

bool has_colours() {
  const char* const no = std::getenv("NO_COLOR");
  const char* const terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && (no == nullptr || *no == '\0') && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

AnswerView::AnswerView(std::optional<ReasoningTags> tags, bool inside, bool colours)
    : tags_(tags), splitter_(std::move(tags), inside), colours_(colours) {}

AnswerView::~AnswerView() {
  if (!in_thought_ || !colours_) return;
  std::fputs(kNotDim, stdout);
  std::fflush(stdout);
}

void AnswerView::push(std::string_view text) {
  text_ += text;
  show(splitter_.push(text));
}

void AnswerView::finish() {
  show(splitter_.finish());
  if (in_thought_) end_thought();
  print("\n");
}

void AnswerView::show(const ReasoningSplitter::Parts& parts) {
  if (!parts.reasoning.empty()) {
    if (!std::exchange(in_thought_, true)) print(colours_ ? kDim : tags_->open + "\n");
    print(printable(parts.reasoning));
  }
  if (!parts.content.empty()) {
    if (in_thought_) {
      end_thought();
      print("\n\n");
    }
    print(printable(parts.content));
  }
  reasoning_ += parts.reasoning;
  content_ += parts.content;
}

void AnswerView::end_thought() {
  in_thought_ = false;
  print(colours_ ? kNotDim : "\n" + tags_->close);
}

void AnswerView::print(std::string_view text) {
  fmt::print("{}", text);
  flush_output();
}

}  // namespace metal_marlin::cli

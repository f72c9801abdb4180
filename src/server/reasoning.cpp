#include "server/reasoning.h"

#include <algorithm>
#include <array>

namespace metal_marlin::server {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

// How much of the end of `text` may be the beginning of `tag`.
std::size_t partial(std::string_view text, std::string_view tag) {
  for (std::size_t size = std::min(text.size(), tag.size() - 1); size > 0; --size) {
    if (text.ends_with(tag.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

std::optional<ReasoningTags> find_reasoning_tags(std::string_view chat_template) {
  static const std::array<ReasoningTags, 4> known = {{{"<think>", "</think>"},
                                                      {"<seed:think>", "</seed:think>"},
                                                      {"<thinking>", "</thinking>"},
                                                      {"[THINK]", "[/THINK]"}}};
  for (const ReasoningTags& tags : known) {
    if (chat_template.find(tags.close) != chat_template.npos) return tags;
  }
  return std::nullopt;
}

bool ends_in_thought(std::string_view prompt, const ReasoningTags& tags, bool anywhere) {
  const std::size_t open = prompt.rfind(tags.open);
  if (open == prompt.npos) return false;
  const std::string_view rest = prompt.substr(open + tags.open.size());
  return anywhere ? rest.find(tags.close) == rest.npos : rest.find_first_not_of(kSpace) == rest.npos;
}

ReasoningSplitter::ReasoningSplitter(std::optional<ReasoningTags> tags, bool inside)
    : tags_(std::move(tags)),
      state_(!tags_   ? State::kContent
             : inside ? State::kInside
                      : State::kStart) {}

ReasoningSplitter::Parts ReasoningSplitter::push(std::string_view text) {
  Parts parts;
  held_ += text;
  advance(parts, false);
  return parts;
}

ReasoningSplitter::Parts ReasoningSplitter::finish() {
  Parts parts;
  advance(parts, true);
  return parts;
}

void ReasoningSplitter::advance(Parts& parts, bool last) {
  if (state_ == State::kStart) begin(last);
  if (state_ == State::kInside) think(parts, last);
  if (state_ == State::kAfter) {
    held_.erase(0, std::min(held_.find_first_not_of("\r\n"), held_.size()));
    if (!held_.empty()) state_ = State::kContent;
  }
  if (state_ == State::kContent) {
    parts.content += held_;
    held_.clear();
  }
}

// A thought begins with its tag, or there is none.
void ReasoningSplitter::begin(bool last) {
  const std::size_t first = std::min(held_.find_first_not_of(kSpace), held_.size());
  const std::string_view text = std::string_view(held_).substr(first);
  if (text.starts_with(tags_->open)) {
    held_.erase(0, first + tags_->open.size());
    state_ = State::kInside;
  } else if (last || !std::string_view(tags_->open).starts_with(text)) {
    state_ = State::kContent;
  }
}

void ReasoningSplitter::think(Parts& parts, bool last) {
  if (!begun_) held_.erase(0, std::min(held_.find_first_not_of("\r\n"), held_.size()));
  const std::size_t close = held_.find(tags_->close);
  const bool closed = close != held_.npos;
  std::size_t ready = closed ? close : held_.size() - (last ? 0 : partial(held_, tags_->close));
  if (closed || !last) {  // line ends wait for what follows
    const std::size_t end = held_.find_last_not_of("\r\n", ready == 0 ? 0 : ready - 1);
    ready = ready == 0 || end == held_.npos ? 0 : end + 1;
  }
  parts.reasoning += held_.substr(0, ready);
  begun_ = begun_ || ready > 0;
  held_.erase(0, closed ? close + tags_->close.size() : ready);
  if (closed) state_ = State::kAfter;
}

}  // namespace metal_marlin::server

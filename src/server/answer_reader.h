// An answer's text as it comes, parted into thought, text and calls of tools.
#pragma once

#include <memory>

#include "chat_template/reasoning.h"
#include "tool_calls/call_parser.h"

namespace metal_marlin::server {

class AnswerReader {
 public:
  // Without tags there are no thoughts but those that the parser finds, without a parser no calls.
  AnswerReader(std::optional<ReasoningTags> tags, bool in_thought, std::unique_ptr<CallParser> calls)
      : splitter_(std::move(tags), in_thought), calls_(std::move(calls)) {}

  CallEvents push(std::string_view text) { return parts(splitter_.push(text)); }
  CallEvents finish() {
    CallEvents events = parts(splitter_.finish());
    if (calls_) calls_->finish(events);
    return events;
  }
  // Within a thought between tags.
  [[nodiscard]] bool inside() const { return splitter_.inside(); }

 private:
  CallEvents parts(const ReasoningSplitter::Parts& parts) {
    CallEvents events;
    if (!parts.reasoning.empty()) events.push_back({CallEvent::Kind::kThought, parts.reasoning, {}, {}});
    if (parts.content.empty()) return events;
    if (calls_) {
      calls_->push(parts.content, events);
    } else {
      events.push_back({CallEvent::Kind::kText, parts.content, {}, {}});
    }
    return events;
  }

  ReasoningSplitter splitter_;
  std::unique_ptr<CallParser> calls_;
};

}  // namespace metal_marlin::server

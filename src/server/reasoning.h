// The part of an answer in which a model thinks, and the rest.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace metal_marlin::server {

struct ReasoningTags {
  std::string open;
  std::string close;
};

// The tags that a chat template speaks of; none: the model does not think, or says so in another way.
std::optional<ReasoningTags> find_reasoning_tags(std::string_view chat_template);

// Whether a prompt ends inside of a thought: after an opening tag with nothing but space behind it or, where
// `anywhere`, with a thought that has begun.
bool ends_in_thought(std::string_view prompt, const ReasoningTags& tags, bool anywhere);

// Parts text as it comes. A thought may only be what comes first; line ends around it belong to the tags.
class ReasoningSplitter {
 public:
  struct Parts {
    std::string reasoning;
    std::string content;
  };
  // Without tags all is content. `inside`: the prompt ended in a thought.
  ReasoningSplitter(std::optional<ReasoningTags> tags, bool inside);
  Parts push(std::string_view text);
  Parts finish();  // what was held back because a tag might have begun
  [[nodiscard]] bool inside() const { return state_ == State::kInside; }

 private:
  enum class State { kStart, kInside, kAfter, kContent };
  void advance(Parts& parts, bool last);
  void begin(bool last);
  void think(Parts& parts, bool last);

  std::optional<ReasoningTags> tags_;
  State state_;
  bool begun_ = false;  // of the thought, something was given out
  std::string held_;
};

}  // namespace metal_marlin::server

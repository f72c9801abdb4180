// The answers of /v1/completions and /v1/chat/completions: choices, whole or as a stream of what is added to them.
#pragma once

#include "server/answer_reader.h"
#include "server/call_list.h"
#include "server/generation.h"
#include "server/sampling_fields.h"
#include "server/thought_budget.h"
#include "server/token_text.h"
#include "server/tools.h"

namespace metal_marlin::server {

struct ChoicesRequest {
  bool chat = false;
  TextOptions options;
  std::vector<EngineRequest> prompts;
  std::vector<std::string> echo;           // texts of the prompts, where they are repeated
  std::optional<ReasoningTags> reasoning;  // none: no thoughts stand between tags, or are not parted from the rest
  bool with_thoughts = true;               // they are parted from the rest
  bool in_thought = false;                 // the prompt ended in one
  std::optional<int> thinking_budget;      // tokens of a thought; then it is ended
  Tools tools;
};

class ChoicesAnswer : public std::enable_shared_from_this<ChoicesAnswer> {
 public:
  ChoicesAnswer(Service& service, const ServedModel& model, Call call, ChoicesRequest request);
  // \throws Error, as Engine::submit() does.
  void start();

 private:
  struct Choice {
    Choice(AnswerReader reads, CallList lists) : reader(std::move(reads)), calls(std::move(lists)) {}
    AnswerReader reader;
    CallList calls;
    std::string content;
    std::string reasoning;
    CompletionLogprobs completion_logprobs;
    OrderedJson chat_logprobs = OrderedJson::array();
    const char* finish = nullptr;
    bool begun = false;
  };

  void take(std::size_t index, const EngineEvent& event);
  void begin(std::size_t index, Choice& choice, const EngineEvent& event);
  void add(std::size_t index, Choice& choice, const CallList::Delta& delta);
  void fail(const ApiError& error);
  void end();
  std::optional<EngineRequest> go_on(std::size_t index);

  [[nodiscard]] OrderedJson frame(bool chunk) const;
  void send_chunk(OrderedJson choice);
  [[nodiscard]] OrderedJson chunk(std::size_t index, Choice& choice, const CallList::Delta& added);
  [[nodiscard]] OrderedJson whole(std::size_t index, Choice& choice);
  OrderedJson take_logprobs(Choice& choice);

  Service& service_;
  const ServedModel& model_;
  Call call_;
  ChoicesRequest request_;
  std::shared_ptr<Generation> generation_;
  std::vector<Choice> choices_;
  std::optional<ThoughtBudget> budget_;
  std::string id_;
  std::time_t created_ = std::time(nullptr);
  bool streaming_ = false;
  bool over_ = false;
};

}  // namespace metal_marlin::server

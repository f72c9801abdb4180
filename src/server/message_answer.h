// The answer of /v1/messages: thoughts, texts and calls as blocks, whole or as a stream of events.
#pragma once

#include "server/answer_reader.h"
#include "server/chat.h"
#include "server/generation.h"
#include "server/sampling_fields.h"
#include "server/thought_budget.h"
#include "server/tools.h"

namespace metal_marlin::server {

struct MessageRequest {
  TextOptions options;  // with the prompt
  bool in_thought = false;
  Thinking thinking;
  Tools tools;
  bool is_cut_by_context = false;  // max_tokens is what the context had left, less than was asked for
};

class MessageAnswer : public std::enable_shared_from_this<MessageAnswer> {
 public:
  MessageAnswer(Service& service, const ServedModel& model, Call call, MessageRequest request);
  // \throws Error, as Engine::submit() does.
  void start();

 private:
  enum class Kind { kThought, kText, kCall };
  struct Block {
    Kind kind = Kind::kText;
    std::string text;  // of calls the input
    std::string id;    // of calls
    std::string name;
  };

  void take(const EngineEvent& event);
  void take_events(const CallEvents& events);
  void add_text(const std::string& text);
  void add(Kind kind, const std::string& text);
  void open_block(Kind kind, const CallEvent& call = {});
  void close_block();
  void break_call(const std::string& text);
  void end(const EngineEvent& event);
  void fail(const ApiError& error);
  void send(const char* type, const OrderedJson& fields);
  std::optional<EngineRequest> go_on();

  [[nodiscard]] const char* stop_reason(const EngineEvent& event) const;
  [[nodiscard]] OrderedJson block_json(const Block& block) const;
  [[nodiscard]] OrderedJson message() const;
  [[nodiscard]] OrderedJson usage() const;

  const ServedModel& model_;
  Call call_;
  MessageRequest request_;
  std::shared_ptr<Generation> generation_;
  AnswerReader reader_;
  std::optional<ThoughtBudget> budget_;
  std::vector<Block> blocks_;
  std::string space_;     // that no text has come behind yet
  bool is_open_ = false;  // the last block
  std::size_t calls_ = 0;
  bool is_broken_ = false;  // one of them
  std::int64_t thought_tokens_ = 0;
  OrderedJson stop_reason_;
  OrderedJson stop_sequence_;
  bool streaming_ = false;
  bool over_ = false;
};

}  // namespace metal_marlin::server

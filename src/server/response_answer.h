// The answer of /v1/responses: thoughts, messages and calls, whole or as a stream of events.
#pragma once

#include "server/answer_reader.h"
#include "server/generation.h"
#include "server/sampling_fields.h"
#include "server/tools.h"

namespace metal_marlin::server {

struct ResponseRequest {
  TextOptions options;  // with the prompt
  bool in_thought = false;
  Tools tools;
};

class ResponseAnswer : public std::enable_shared_from_this<ResponseAnswer> {
 public:
  // \param shown fields of the request that the response repeats.
  ResponseAnswer(Service& service, const ServedModel& model, Call call, ResponseRequest request, OrderedJson shown);
  // \throws Error, as Engine::submit() does.
  void start();

 private:
  enum class Kind { kThought, kMessage, kCall };
  // A part of the answer: what it is called in items and events.
  struct Item {
    Kind kind = Kind::kMessage;
    std::string id;
    std::string text;  // of calls the arguments
    std::string name;
    std::string call_id;
    const char* status = "in_progress";
    OrderedJson logprobs = OrderedJson::array();
  };

  void take(const EngineEvent& event);
  void take_logprobs(const EngineEvent& event);
  void take_events(const CallEvents& events);
  void add(Kind kind, const std::string& text);
  void open_item(Kind kind, const CallEvent& call = {});
  void close_item(const char* status = "completed");
  void end(const char* status);
  void fail(const ApiError& error);
  void send(const char* type, const OrderedJson& fields);

  [[nodiscard]] OrderedJson part(const Item& item) const;
  [[nodiscard]] OrderedJson item_json(const Item& item) const;
  [[nodiscard]] OrderedJson response(const char* status) const;

  const ServedModel& model_;
  Call call_;
  ResponseRequest request_;
  OrderedJson shown_;
  std::shared_ptr<Generation> generation_;
  AnswerReader reader_;
  std::vector<Item> items_;
  OrderedJson logprobs_ = OrderedJson::array();  // of tokens whose text is still to come
  std::size_t calls_ = 0;
  bool is_open_ = false;  // the last item
  std::int64_t thought_tokens_ = 0;
  std::int64_t sequence_ = 0;
  std::time_t created_ = std::time(nullptr);
  OrderedJson error_;
  bool streaming_ = false;
  bool over_ = false;
};

}  // namespace metal_marlin::server

// The answer of /v1/responses: a thought and a message, whole or as a stream of events.
#pragma once

#include "server/generation.h"
#include "server/sampling_fields.h"

namespace metal_marlin::server {

struct ResponseRequest {
  TextOptions options;  // with the prompt
  bool in_thought = false;
};

class ResponseAnswer : public std::enable_shared_from_this<ResponseAnswer> {
 public:
  // \param shown fields of the request that the response repeats.
  ResponseAnswer(Service& service, const ServedModel& model, Call call, ResponseRequest request, OrderedJson shown);
  // \throws Error, as Engine::submit() does.
  void start();

 private:
  // A part of the answer: what it is called in items and events.
  struct Item {
    bool thought = false;
    std::string id;
    std::string text;
    OrderedJson logprobs = OrderedJson::array();
  };

  void take(const EngineEvent& event);
  void take_logprobs(const EngineEvent& event, bool in_thought);
  void add(bool thought, const std::string& text);
  void open_item(bool thought);
  void close_item(const char* status);
  void end(const char* status);
  void fail(const ApiError& error);
  void send(const char* type, const OrderedJson& fields);

  [[nodiscard]] OrderedJson part(const Item& item) const;
  [[nodiscard]] OrderedJson item_json(const Item& item, const char* status) const;
  [[nodiscard]] OrderedJson response(const char* status) const;

  const ServedModel& model_;
  Call call_;
  ResponseRequest request_;
  OrderedJson shown_;
  std::shared_ptr<Generation> generation_;
  ReasoningSplitter splitter_;
  std::vector<Item> items_;
  OrderedJson logprobs_ = OrderedJson::array();  // of tokens whose text is still to come
  std::int64_t thought_tokens_ = 0;
  std::int64_t sequence_ = 0;
  std::time_t created_ = std::time(nullptr);
  OrderedJson error_;
  bool streaming_ = false;
  bool over_ = false;
};

}  // namespace metal_marlin::server

#include "server/response_answer.h"

#include <algorithm>

#include "server/sse.h"
#include "server/token_text.h"

namespace metal_marlin::server {

ResponseAnswer::ResponseAnswer(Service& service, const ServedModel& model, Call call, ResponseRequest request,
                               OrderedJson shown)
    : model_(model),
      call_(std::move(call)),
      request_(std::move(request)),
      shown_(std::move(shown)),
      generation_(std::make_shared<Generation>(service, model, call_)),
      splitter_(model.reasoning, request_.in_thought) {}

void ResponseAnswer::start() {
  generation_->start({request_.options.engine},
                     [self = shared_from_this()](std::size_t, const EngineEvent& event) { self->take(event); });
}

void ResponseAnswer::take(const EngineEvent& event) {
  if (over_) return;
  if (const auto failure = failure_of(event)) return fail(*failure);
  if (request_.options.stream && !streaming_) {
    streaming_ = true;
    call_.exchange->begin(200, kSseType);
    send("response.created", {{"response", response("in_progress")}});
    send("response.in_progress", {{"response", response("in_progress")}});
  }
  const bool in_thought = splitter_.inside();
  if (in_thought) thought_tokens_ += static_cast<std::int64_t>(event.tokens.size());
  const ReasoningSplitter::Parts parts = splitter_.push(event.text);
  take_logprobs(event, in_thought);
  add(true, parts.reasoning);
  add(false, parts.content);
  if (!event.finished) return;
  const ReasoningSplitter::Parts rest = splitter_.finish();
  add(true, rest.reasoning);
  add(false, rest.content);
  if (items_.empty()) open_item(false);  // a response has an item, be it empty
  end(event.finished == StopReason::kLength ? "incomplete" : "completed");
}

// They go with the text that is said next: that of a token may be held back. Those of thoughts are not shown, the tag
// that ends one is the thought's.
void ResponseAnswer::take_logprobs(const EngineEvent& event, bool in_thought) {
  if (in_thought || splitter_.inside()) return;
  for (OrderedJson& entry : chat_logprobs(event.logprobs, *model_.tokenizer)) logprobs_.push_back(std::move(entry));
}

void ResponseAnswer::add(bool thought, const std::string& text) {
  if (text.empty()) return;
  if (items_.empty() || items_.back().thought != thought) open_item(thought);
  Item& item = items_.back();
  item.text += text;
  OrderedJson fields = {
      {"item_id", item.id}, {"output_index", items_.size() - 1}, {"content_index", 0}, {"delta", text}};
  if (!thought) {
    for (const OrderedJson& entry : logprobs_) item.logprobs.push_back(entry);
    fields["logprobs"] = std::exchange(logprobs_, OrderedJson::array());
  }
  send(thought ? "response.reasoning_text.delta" : "response.output_text.delta", fields);
}

void ResponseAnswer::open_item(bool thought) {
  if (!items_.empty()) close_item("completed");
  items_.push_back({thought, (thought ? "rs_" : "msg_") + call_.id, {}});
  const Item& item = items_.back();
  send("response.output_item.added", {{"output_index", items_.size() - 1}, {"item", item_json(item, "in_progress")}});
  send("response.content_part.added",
       {{"item_id", item.id}, {"output_index", items_.size() - 1}, {"content_index", 0}, {"part", part(item)}});
}

void ResponseAnswer::close_item(const char* status) {
  const Item& item = items_.back();
  const OrderedJson where = {{"item_id", item.id}, {"output_index", items_.size() - 1}, {"content_index", 0}};
  OrderedJson text = where;
  text["text"] = item.text;
  if (!item.thought) text["logprobs"] = item.logprobs;
  send(item.thought ? "response.reasoning_text.done" : "response.output_text.done", text);
  OrderedJson whole = where;
  whole["part"] = part(item);
  send("response.content_part.done", whole);
  send("response.output_item.done", {{"output_index", items_.size() - 1}, {"item", item_json(item, status)}});
}

void ResponseAnswer::end(const char* status) {
  over_ = true;
  if (!items_.back().thought) {  // of tokens that made no text, as one that ended it
    for (OrderedJson& entry : logprobs_) items_.back().logprobs.push_back(std::move(entry));
  }
  close_item(status);
  if (!streaming_) return call_.exchange->respond(200, "application/json", json_text(response(status)));
  send((std::string("response.") + status).c_str(), {{"response", response(status)}});
  call_.exchange->end();
}

void ResponseAnswer::fail(const ApiError& error) {
  over_ = true;
  generation_->cancel();
  if (!streaming_) return call_.exchange->respond(error.status, "application/json", error_body(error));
  error_ = {{"code", error.code.empty() ? "server_error" : error.code}, {"message", error.what()}};
  send("response.failed", {{"response", response("failed")}});
  call_.exchange->end();
}

void ResponseAnswer::send(const char* type, const OrderedJson& fields) {
  if (!streaming_) return;
  OrderedJson event = {{"type", type}, {"sequence_number", sequence_++}};
  event.update(fields);
  call_.exchange->write(sse_event(type, event));
}

OrderedJson ResponseAnswer::part(const Item& item) const {
  if (item.thought) return {{"type", "reasoning_text"}, {"text", item.text}};
  return {
      {"type", "output_text"}, {"annotations", OrderedJson::array()}, {"logprobs", item.logprobs}, {"text", item.text}};
}

OrderedJson ResponseAnswer::item_json(const Item& item, const char* status) const {
  OrderedJson value = {{"id", item.id}, {"type", item.thought ? "reasoning" : "message"}};
  const bool done = std::string_view(status) != "in_progress";
  value["status"] = status;
  if (item.thought) {
    value["summary"] = OrderedJson::array();
  } else {
    value["role"] = "assistant";
  }
  value["content"] = done ? OrderedJson::array({part(item)}) : OrderedJson::array();
  return value;
}

OrderedJson ResponseAnswer::response(const char* status) const {
  const bool over = std::string_view(status) != "in_progress";
  const bool cut = std::string_view(status) == "incomplete";
  OrderedJson value = {{"id", "resp_" + call_.id},
                       {"object", "response"},
                       {"created_at", created_},
                       {"status", status},
                       {"error", error_},
                       {"incomplete_details", cut ? OrderedJson{{"reason", "max_output_tokens"}} : OrderedJson()},
                       {"model", model_.name},
                       {"output", OrderedJson::array()},
                       {"parallel_tool_calls", false},
                       {"previous_response_id", nullptr},
                       {"store", false},
                       {"temperature", request_.options.engine.sampler.temperature},
                       {"tool_choice", "none"},
                       {"tools", OrderedJson::array()},
                       {"top_p", request_.options.engine.sampler.top_p},
                       {"truncation", "disabled"},
                       {"top_logprobs", std::max(0, request_.options.engine.logprobs)},
                       {"usage", nullptr}};
  value.update(shown_);
  if (!over) return value;
  // All but the last ended before the next began.
  for (const Item& item : items_) {
    const bool last = &item == &items_.back();
    value["output"].push_back(
        item_json(item, last && std::string_view(status) != "completed" ? "incomplete" : "completed"));
  }
  const TokenUsage usage = generation_->usage();
  value["usage"] = {
      {"input_tokens", usage.prompt},
      {"input_tokens_details", {{"cached_tokens", usage.cached}, {"cache_write_tokens", 0}}},  // none are to be paid
      {"output_tokens", usage.generated},
      {"output_tokens_details", {{"reasoning_tokens", thought_tokens_}}},
      {"total_tokens", usage.prompt + usage.generated}};
  return value;
}

}  // namespace metal_marlin::server

#include "server/response_answer.h"

#include <algorithm>
#include <array>

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
      reader_(model.reasoning, request_.in_thought, make_call_parser(request_.tools, model)) {}

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
  const bool in_thought = reader_.inside();
  if (in_thought) thought_tokens_ += static_cast<std::int64_t>(event.tokens.size());
  const CallEvents events = reader_.push(event.text);
  // Those of thoughts are not shown, and the tag that ends one is the thought's.
  if (!in_thought && !reader_.inside()) take_logprobs(event);
  take_events(events);
  if (!event.finished) return;
  take_events(reader_.finish());
  if (items_.empty()) open_item(Kind::kMessage);  // a response has an item, be it empty
  end(event.finished == StopReason::kLength ? "incomplete" : "completed");
}

// They go with the text that is said next: that of a token may be held back.
void ResponseAnswer::take_logprobs(const EngineEvent& event) {
  for (OrderedJson& entry : chat_logprobs(event.logprobs, *model_.tokenizer)) logprobs_.push_back(std::move(entry));
}

void ResponseAnswer::take_events(const CallEvents& events) {
  for (const CallEvent& event : events) {
    switch (event.kind) {
      case CallEvent::Kind::kThought: add(Kind::kThought, event.text); break;
      case CallEvent::Kind::kText: add(Kind::kMessage, event.text); break;
      case CallEvent::Kind::kBegin: open_item(Kind::kCall, event); break;
      case CallEvent::Kind::kArguments: add(Kind::kCall, event.text); break;
      case CallEvent::Kind::kEnd:
        close_item();
        logprobs_ = OrderedJson::array();  // of the call's tokens
        break;
      case CallEvent::Kind::kBroken:
        close_item("incomplete");
        // Who has not been told of it needs not be.
        if (!streaming_) items_.pop_back();
        add(Kind::kMessage, event.text);
        break;
    }
  }
}

void ResponseAnswer::add(Kind kind, const std::string& text) {
  if (text.empty()) return;
  if (!is_open_ || items_.back().kind != kind) open_item(kind);
  Item& item = items_.back();
  item.text += text;
  OrderedJson fields = {{"item_id", item.id}, {"output_index", items_.size() - 1}};
  if (kind != Kind::kCall) fields["content_index"] = 0;
  fields["delta"] = text;
  if (kind == Kind::kMessage) {
    for (const OrderedJson& entry : logprobs_) item.logprobs.push_back(entry);
    fields["logprobs"] = std::exchange(logprobs_, OrderedJson::array());
  }
  constexpr std::array<const char*, 3> types = {"response.reasoning_text.delta", "response.output_text.delta",
                                                "response.function_call_arguments.delta"};
  send(types[static_cast<std::size_t>(kind)], fields);
}

void ResponseAnswer::open_item(Kind kind, const CallEvent& call) {
  if (is_open_) close_item();
  constexpr std::array<const char*, 3> prefixes = {"rs_", "msg_", "fc_"};
  const auto same = std::count_if(items_.begin(), items_.end(), [&](const Item& item) { return item.kind == kind; });
  Item& item = items_.emplace_back();
  item.kind = kind;
  item.id = prefixes[static_cast<std::size_t>(kind)] + call_.id;
  if (same > 0) item.id += "-" + std::to_string(same);
  item.name = call.name;
  is_open_ = true;
  if (kind == Kind::kCall) item.call_id = call_id(model_, call_.id, calls_++, call.id);
  send("response.output_item.added", {{"output_index", items_.size() - 1}, {"item", item_json(item)}});
  if (kind == Kind::kCall) return;
  send("response.content_part.added",
       {{"item_id", item.id}, {"output_index", items_.size() - 1}, {"content_index", 0}, {"part", part(item)}});
}

void ResponseAnswer::close_item(const char* status) {
  if (!is_open_) return;
  is_open_ = false;
  Item& item = items_.back();
  item.status = status;
  OrderedJson where = {{"item_id", item.id}, {"output_index", items_.size() - 1}};
  if (item.kind == Kind::kCall) {
    OrderedJson done = where;
    done["name"] = item.name;
    done["arguments"] = item.text;
    send("response.function_call_arguments.done", done);
  } else {
    where["content_index"] = 0;
    OrderedJson text = where;
    text["text"] = item.text;
    if (item.kind == Kind::kMessage) text["logprobs"] = item.logprobs;
    send(item.kind == Kind::kThought ? "response.reasoning_text.done" : "response.output_text.done", text);
    OrderedJson whole = where;
    whole["part"] = part(item);
    send("response.content_part.done", whole);
  }
  send("response.output_item.done", {{"output_index", items_.size() - 1}, {"item", item_json(item)}});
}

void ResponseAnswer::end(const char* status) {
  over_ = true;
  if (items_.back().kind == Kind::kMessage) {  // of tokens that made no text, as one that ended it
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
  if (!streaming_) return call_.exchange->respond(error.status, "application/json", call_.error(error));
  if (is_open_) items_.back().status = "incomplete";
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
  if (item.kind == Kind::kThought) return {{"type", "reasoning_text"}, {"text", item.text}};
  return {
      {"type", "output_text"}, {"annotations", OrderedJson::array()}, {"logprobs", item.logprobs}, {"text", item.text}};
}

OrderedJson ResponseAnswer::item_json(const Item& item) const {
  constexpr std::array<const char*, 3> types = {"reasoning", "message", "function_call"};
  const bool done = std::string_view(item.status) != "in_progress";
  OrderedJson value = {{"id", item.id}, {"type", types[static_cast<std::size_t>(item.kind)]}, {"status", item.status}};
  if (item.kind == Kind::kCall) {
    value["call_id"] = item.call_id;
    value["name"] = item.name;
    value["arguments"] = done ? item.text : std::string();
    return value;
  }
  if (item.kind == Kind::kThought) {
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
                       {"previous_response_id", nullptr},
                       {"store", false},
                       {"temperature", request_.options.engine.sampler.temperature},
                       {"top_p", request_.options.engine.sampler.top_p},
                       {"truncation", "disabled"},
                       {"top_logprobs", std::max(0, request_.options.engine.logprobs)},
                       {"usage", nullptr}};
  value.update(shown_);
  if (!over) return value;
  for (const Item& item : items_) value["output"].push_back(item_json(item));
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

#include "server/message_answer.h"

#include "server/sse.h"
#include "tool_calls/delimiter.h"

namespace metal_marlin::server {
namespace {

// What clients send back with a thought. Nobody signs thoughts here, and none are looked at for it.
constexpr const char* kSignature = "unsigned";

}  // namespace

MessageAnswer::MessageAnswer(Service& service, const ServedModel& model, Call call, MessageRequest request)
    : model_(model),
      call_(std::move(call)),
      request_(std::move(request)),
      generation_(std::make_shared<Generation>(service, model, call_)),
      reader_(model.reasoning, request_.in_thought, make_call_parser(request_.tools, model)) {}

void MessageAnswer::start() {
  EngineRequest first = request_.options.engine;
  Generation::GoOn go_on;
  if (request_.thinking.budget && model_.reasoning) {
    budget_.emplace(model_, first, *request_.thinking.budget);
    first = budget_->first();
    go_on = [self = shared_from_this()](std::size_t) { return self->go_on(); };
  }
  generation_->start(
      {std::move(first)}, [self = shared_from_this()](std::size_t, const EngineEvent& event) { self->take(event); },
      std::move(go_on));
}

std::optional<EngineRequest> MessageAnswer::go_on() {
  auto more = budget_->go_on(reader_.inside());
  if (!more) return std::nullopt;
  if (!more->closing.empty()) take_events(reader_.push(more->closing));
  return std::move(more->request);
}

void MessageAnswer::take(const EngineEvent& event) {
  if (over_) return;
  if (const auto failure = failure_of(event)) return fail(*failure);
  // The stream begins with the first event, so that what fails before has a status of its own.
  if (request_.options.stream && !streaming_) {
    streaming_ = true;
    call_.exchange->begin(200, kSseType);
    send("message_start", {{"message", message()}});
  }
  if (reader_.inside()) thought_tokens_ += static_cast<std::int64_t>(event.tokens.size());
  if (budget_) budget_->add(event.tokens);
  take_events(reader_.push(event.text));
  if (!event.finished) return;
  take_events(reader_.finish());
  end(event);
}

void MessageAnswer::take_events(const CallEvents& events) {
  for (const CallEvent& event : events) {
    switch (event.kind) {
      case CallEvent::Kind::kThought: add(Kind::kThought, event.text); break;
      case CallEvent::Kind::kText: add_text(event.text); break;
      case CallEvent::Kind::kBegin: open_block(Kind::kCall, event); break;
      case CallEvent::Kind::kArguments: add(Kind::kCall, event.text); break;
      case CallEvent::Kind::kEnd: close_block(); break;
      case CallEvent::Kind::kBroken: break_call(event.text); break;
    }
  }
}

// White space alone is no block: models write some between a thought, a text and a call.
void MessageAnswer::add_text(const std::string& text) {
  const bool goes_on = is_open_ && blocks_.back().kind == Kind::kText;
  if (!goes_on && trim_space(text).empty()) {
    space_ += text;
    return;
  }
  add(Kind::kText, goes_on ? text : std::exchange(space_, {}) + text);
}

void MessageAnswer::add(Kind kind, const std::string& text) {
  if (text.empty()) return;
  if (!is_open_ || blocks_.back().kind != kind) open_block(kind);
  blocks_.back().text += text;
  if (kind == Kind::kThought && !request_.thinking.is_shown) return;
  OrderedJson delta;
  switch (kind) {
    case Kind::kThought: delta = {{"type", "thinking_delta"}, {"thinking", text}}; break;
    case Kind::kText: delta = {{"type", "text_delta"}, {"text", text}}; break;
    case Kind::kCall: delta = {{"type", "input_json_delta"}, {"partial_json", text}}; break;
  }
  send("content_block_delta", {{"index", blocks_.size() - 1}, {"delta", delta}});
}

void MessageAnswer::open_block(Kind kind, const CallEvent& call) {
  close_block();
  space_.clear();
  Block& block = blocks_.emplace_back();
  block.kind = kind;
  block.name = call.name;
  if (kind == Kind::kCall) block.id = call_id(model_, call_.id, calls_++, call.id);
  is_open_ = true;
  OrderedJson empty = block_json(block);
  if (kind == Kind::kThought) empty["signature"] = "";  // it comes last
  send("content_block_start", {{"index", blocks_.size() - 1}, {"content_block", std::move(empty)}});
  if (blocks_.size() == 1) send("ping", OrderedJson::object());
}

void MessageAnswer::close_block() {
  if (!is_open_) return;
  is_open_ = false;
  const OrderedJson where = {{"index", blocks_.size() - 1}};
  if (blocks_.back().kind == Kind::kThought) {
    OrderedJson signed_with = where;
    signed_with["delta"] = {{"type", "signature_delta"}, {"signature", kSignature}};
    send("content_block_delta", signed_with);
  }
  send("content_block_stop", where);
}

// It becomes text. Who has not been told of the call needs not be.
void MessageAnswer::break_call(const std::string& text) {
  is_broken_ = true;
  close_block();
  if (!streaming_) blocks_.pop_back();
  add_text(text);
}

const char* MessageAnswer::stop_reason(const EngineEvent& event) const {
  switch (*event.finished) {
    case StopReason::kLength: return request_.is_cut_by_context ? "model_context_window_exceeded" : "max_tokens";
    case StopReason::kStopText: return "stop_sequence";
    default: return calls_ > 0 && !is_broken_ ? "tool_use" : "end_turn";
  }
}

void MessageAnswer::end(const EngineEvent& event) {
  over_ = true;
  if (blocks_.empty()) {  // a message has a block, be it empty
    const std::string space = std::exchange(space_, {});
    open_block(Kind::kText);
    add(Kind::kText, space);
  }
  close_block();
  stop_reason_ = stop_reason(event);
  if (event.finished == StopReason::kStopText) stop_sequence_ = event.stop_text;
  if (!streaming_) return call_.exchange->respond(200, "application/json", json_text(message()));
  const OrderedJson delta = {{"stop_reason", stop_reason_}, {"stop_sequence", stop_sequence_}};
  send("message_delta", {{"delta", delta}, {"usage", usage()}});
  send("message_stop", OrderedJson::object());
  call_.exchange->end();
}

void MessageAnswer::fail(const ApiError& error) {
  over_ = true;
  generation_->cancel();
  if (!streaming_) return call_.exchange->respond(error.status, "application/json", call_.error(error));
  call_.exchange->write("event: error\ndata: " + call_.error(error) + "\n\n");
  call_.exchange->end();
}

void MessageAnswer::send(const char* type, const OrderedJson& fields) {
  if (!streaming_) return;
  OrderedJson event = {{"type", type}};
  event.update(fields);
  call_.exchange->write(sse_event(type, event));
}

OrderedJson MessageAnswer::block_json(const Block& block) const {
  switch (block.kind) {
    case Kind::kThought:
      return {{"type", "thinking"},
              {"thinking", request_.thinking.is_shown ? block.text : std::string()},
              {"signature", kSignature}};
    case Kind::kText: return {{"type", "text"}, {"text", block.text}};
    default:
      return {{"type", "tool_use"},
              {"id", block.id},
              {"name", block.name},
              {"input", block.text.empty() ? OrderedJson::object() : OrderedJson::parse(block.text)}};
  }
}

OrderedJson MessageAnswer::message() const {
  OrderedJson content = OrderedJson::array();
  for (const Block& block : blocks_) content.push_back(block_json(block));
  return {{"id", "msg_" + call_.id},
          {"type", "message"},
          {"role", "assistant"},
          {"model", model_.name},
          {"content", std::move(content)},
          {"stop_reason", stop_reason_},
          {"stop_sequence", stop_sequence_},
          {"usage", usage()}};
}

// The prefix cache is kept by itself: nothing is written to it at a client's wish.
OrderedJson MessageAnswer::usage() const {
  const TokenUsage used = generation_->usage();
  return {{"input_tokens", used.prompt - used.cached},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", used.cached},
          {"output_tokens", used.generated},
          {"output_tokens_details", {{"thinking_tokens", thought_tokens_}}},
          {"service_tier", "standard"}};
}

}  // namespace metal_marlin::server

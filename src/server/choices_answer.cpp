#include "server/choices_answer.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_marlin/inspect.h"
#include "server/sse.h"

namespace metal_marlin::server {

ChoicesAnswer::ChoicesAnswer(Service& service, const ServedModel& model, Call call, ChoicesRequest request)
    : service_(service),
      model_(model),
      call_(std::move(call)),
      request_(std::move(request)),
      generation_(std::make_shared<Generation>(service, model, call_)),
      id_((request_.chat ? "chatcmpl-" : "cmpl-") + call_.id) {
  const auto count = request_.prompts.size() * static_cast<std::size_t>(request_.options.engine.samples);
  choices_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    choices_.emplace_back(AnswerReader(request_.reasoning, request_.in_thought,
                                       request_.chat ? make_call_parser(request_.tools, model_) : nullptr),
                          CallList(model_, fmt::format("{}-{}", call_.id, i), request_.with_thoughts));
  }
}

void ChoicesAnswer::start() {
  Generation::GoOn go_on;
  std::vector<EngineRequest> requests = request_.prompts;
  if (request_.thinking_budget) {
    budget_.emplace(model_, requests.front(), *request_.thinking_budget);
    requests.front() = budget_->first();
    go_on = [self = shared_from_this()](std::size_t index) { return self->go_on(index); };
  }
  generation_->start(
      std::move(requests),
      [self = shared_from_this()](std::size_t index, const EngineEvent& event) { self->take(index, event); },
      std::move(go_on));
}

void ChoicesAnswer::take(std::size_t index, const EngineEvent& event) {
  if (over_) return;
  if (const auto failure = failure_of(event)) return fail(*failure);
  Choice& choice = choices_[index];
  if (!choice.begun) begin(index, choice, event);
  if (budget_) budget_->add(event.tokens);
  if (!event.logprobs.empty()) {
    if (request_.chat) {
      for (auto& entry : chat_logprobs(event.logprobs, *model_.tokenizer))
        choice.chat_logprobs.push_back(std::move(entry));
    } else {
      choice.completion_logprobs.add(event.logprobs, *model_.tokenizer);
    }
  }
  CallEvents events = choice.reader.push(event.text);
  if (event.finished) {
    for (CallEvent& rest : choice.reader.finish()) events.push_back(std::move(rest));
  }
  const CallList::Delta delta = choice.calls.add(events);
  if (event.finished) {
    choice.finish = finish_reason(event);
    if (choice.calls.asks_for_calls() && *event.finished != StopReason::kLength)
      choice.finish = request_.tools.is_legacy ? "function_call" : "tool_calls";
  }
  add(index, choice, delta);
  if (generation_->all_ended()) end();
}

// The stream begins with the first event, so that what fails before has a status of its own.
void ChoicesAnswer::begin(std::size_t index, Choice& choice, const EngineEvent& event) {
  choice.begun = true;
  if (request_.options.stream && !streaming_) {
    streaming_ = true;
    call_.exchange->begin(200, kSseType);
  }
  if (streaming_ && request_.chat) {
    send_chunk({{"index", index},
                {"delta", {{"role", "assistant"}, {"content", ""}}},
                {"logprobs", nullptr},
                {"finish_reason", nullptr}});
  }
  if (request_.echo.empty()) return;
  const std::size_t samples = static_cast<std::size_t>(request_.options.engine.samples);
  const std::size_t prompt = index / samples;
  // They come once for a prompt, with its first sample; the others repeat them.
  if (index % samples == 0) {
    for (std::size_t other = index; other < index + samples; ++other) {
      choices_[other].completion_logprobs.add(event.prompt_logprobs, *model_.tokenizer, true);
    }
  }
  CallList::Delta echo;
  echo.content = request_.echo[prompt];
  add(index, choice, echo);
}

void ChoicesAnswer::add(std::size_t index, Choice& choice, const CallList::Delta& delta) {
  if (streaming_) {
    const bool logprobs = request_.options.engine.logprobs >= 0;
    if (delta.empty() && !choice.finish && !logprobs) return;
    return send_chunk(chunk(index, choice, delta));
  }
  choice.content += delta.content;
  choice.reasoning += delta.reasoning;
}

void ChoicesAnswer::fail(const ApiError& error) {
  over_ = true;
  generation_->cancel();
  if (!streaming_) return call_.exchange->respond(error.status, "application/json", call_.error(error));
  call_.exchange->write("data: " + call_.error(error) + "\n\n");
  call_.exchange->write(std::string(kSseDone));
  call_.exchange->end();
}

void ChoicesAnswer::end() {
  over_ = true;
  if (streaming_) {
    if (request_.options.usage_at_end) {
      OrderedJson last = frame(true);
      last["choices"] = OrderedJson::array();
      last["usage"] = generation_->usage().json();
      call_.exchange->write(sse_data(last));
    }
    call_.exchange->write(std::string(kSseDone));
    return call_.exchange->end();
  }
  OrderedJson answer = frame(false);
  answer["choices"] = OrderedJson::array();
  for (std::size_t i = 0; i < choices_.size(); ++i) answer["choices"].push_back(whole(i, choices_[i]));
  answer["usage"] = generation_->usage().json();
  call_.exchange->respond(200, "application/json", json_text(answer));
}

std::optional<EngineRequest> ChoicesAnswer::go_on(std::size_t index) {
  Choice& choice = choices_[index];
  auto more = budget_->go_on(choice.reader.inside());
  if (!more) return std::nullopt;
  if (!more->closing.empty()) add(index, choice, choice.calls.add(choice.reader.push(more->closing)));
  return std::move(more->request);
}

OrderedJson ChoicesAnswer::frame(bool chunk) const {
  const char* const chat = chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", id_},
          {"object", request_.chat ? chat : "text_completion"},
          {"created", created_},
          {"model", model_.name},
          {"system_fingerprint", std::string("metal-marlin-") + version()}};
}

void ChoicesAnswer::send_chunk(OrderedJson choice) {
  OrderedJson value = frame(true);
  value["choices"] = OrderedJson::array({std::move(choice)});
  if (request_.options.usage_in_chunks) {
    value["usage"] = generation_->usage().json();
  } else if (request_.options.usage_at_end) {
    value["usage"] = nullptr;
  }
  call_.exchange->write(sse_data(value));
}

OrderedJson ChoicesAnswer::take_logprobs(Choice& choice) {
  if (request_.options.engine.logprobs < 0) return {};
  if (!request_.chat) return choice.completion_logprobs.take();
  return {{"content", std::exchange(choice.chat_logprobs, OrderedJson::array())}, {"refusal", nullptr}};
}

OrderedJson ChoicesAnswer::chunk(std::size_t index, Choice& choice, const CallList::Delta& added) {
  OrderedJson value = {{"index", index}};
  if (request_.chat) {
    OrderedJson& delta = value["delta"] = OrderedJson::object();
    if (!added.reasoning.empty()) delta["reasoning_content"] = added.reasoning;
    if (!added.content.empty()) delta["content"] = added.content;
    if (!added.calls.empty() && request_.tools.is_legacy) {
      delta["function_call"] = added.calls.front()["function"];
    } else if (!added.calls.empty()) {
      delta["tool_calls"] = added.calls;
    }
  } else {
    value["text"] = added.content;
  }
  value["logprobs"] = take_logprobs(choice);
  value["finish_reason"] = choice.finish ? OrderedJson(choice.finish) : OrderedJson();
  return value;
}

OrderedJson ChoicesAnswer::whole(std::size_t index, Choice& choice) {
  OrderedJson value = {{"index", index}};
  if (request_.chat) {
    value["message"] = {{"role", "assistant"}, {"content", choice.content}, {"refusal", nullptr}};
    OrderedJson calls = choice.calls.whole();
    if (!calls.empty()) {
      if (choice.content.empty()) value["message"]["content"] = nullptr;
      if (request_.tools.is_legacy) {
        value["message"]["function_call"] = calls.front()["function"];
      } else {
        value["message"]["tool_calls"] = std::move(calls);
      }
    }
    if (request_.reasoning || !choice.reasoning.empty()) {
      value["message"]["reasoning_content"] = choice.reasoning.empty() ? OrderedJson() : OrderedJson(choice.reasoning);
    }
  } else {
    value["text"] = choice.content;
  }
  value["logprobs"] = take_logprobs(choice);
  value["finish_reason"] = choice.finish;
  return value;
}

}  // namespace metal_marlin::server

#include "server/generation.h"

namespace metal_marlin::server {

OrderedJson TokenUsage::json() const {
  return {{"prompt_tokens", prompt},
          {"completion_tokens", generated},
          {"total_tokens", prompt + generated},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

const char* finish_reason(const EngineEvent& event) {
  if (event.error || !event.finished) return "error";
  switch (*event.finished) {
    case StopReason::kLength: return "length";
    case StopReason::kCancelled: return "abort";
    default: return "stop";
  }
}

std::optional<ApiError> failure_of(const EngineEvent& event) {
  if (event.error) return to_api_error(*event.error);
  if (event.finished == StopReason::kCancelled) {
    return ApiError(503, "the server is shutting down", {}, "shutting_down");
  }
  return std::nullopt;
}

Generation::Generation(Service& service, const ServedModel& model, Call call)
    : service_(service), model_(model), call_(std::move(call)) {}

void Generation::start(std::vector<EngineRequest> requests, Sink sink, GoOn go_on) {
  sink_ = std::move(sink);
  go_on_ = std::move(go_on);
  for (const EngineRequest& request : requests) {
    choices_.resize(choices_.size() + static_cast<std::size_t>(request.samples));
    choices_[choices_.size() - static_cast<std::size_t>(request.samples)].first_of_prompt = true;
  }
  open_ = choices_.size();
  try {
    // Events wait until all were taken, so that an error is the whole answer.
    const std::scoped_lock lock(mutex_);
    cancelled_ = true;  // until then: an event that waits here must not find the sink that a failure takes away
    std::size_t first_choice = 0;
    for (EngineRequest& request : requests) {
      const auto samples = static_cast<std::size_t>(request.samples);
      submit(std::move(request), first_choice);
      first_choice += samples;
    }
    cancelled_ = false;
  } catch (...) {
    cancel();
    sink_ = nullptr;
    go_on_ = nullptr;
    throw;
  }
  call_.exchange->when_gone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->cancel();
  });
}

void Generation::submit(EngineRequest request, std::size_t first_choice) {
  request.adapter = model_.adapter();
  ids_.push_back(
      model_.engine->submit(std::move(request), [self = shared_from_this(), first_choice](const EngineEvent& event) {
        self->take(first_choice + static_cast<std::size_t>(event.sample), event);
      }));
}

void Generation::cancel() {
  std::vector<RequestId> ids;
  {
    const std::scoped_lock lock(mutex_);
    cancelled_ = true;
    ids.swap(ids_);
  }
  for (const RequestId id : ids) model_.engine->cancel(id);
}

void Generation::take(std::size_t index, const EngineEvent& event) {
  bool cancelled = false;
  {
    const std::scoped_lock lock(mutex_);
    cancelled = cancelled_;
  }
  Choice& choice = choices_[index];
  account(choice, event);
  EngineEvent now = event;
  if (!cancelled && go_on_ && event.finished == StopReason::kLength) {
    now.finished.reset();
    sink_(index, now);
    if (continue_choice(index, now)) return;
    std::optional<Error> error = std::exchange(now.error, std::nullopt);
    now = EngineEvent();
    now.sample = event.sample;
    if (error) {
      now.error = std::move(error);
    } else {
      now.finished = event.finished;
    }
  }
  Sink last;
  if (now.is_last()) {
    service_.metrics.sample_ended(model_.name, choice.usage, finish_reason(now), choice.first_of_prompt);
    if (--open_ == 0) {
      log_end();
      last.swap(sink_);  // it holds who holds this
      go_on_ = nullptr;
    }
  }
  if (!cancelled) (last ? last : sink_)(index, now);
}

// Whether the choice goes on; where it cannot, `event` has the error.
bool Generation::continue_choice(std::size_t index, EngineEvent& event) {
  std::optional<EngineRequest> more = go_on_(index);
  if (!more) return false;
  choices_[index].before = choices_[index].usage;
  try {
    const std::scoped_lock lock(mutex_);
    if (cancelled_) return false;
    submit(std::move(*more), index);
    return true;
  } catch (const Error& error) {
    event.error = error;
    return false;
  }
}

void Generation::account(Choice& choice, const EngineEvent& event) {
  if (!event.tokens.empty()) {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = choice.begun ? std::chrono::duration<double>(now - choice.last).count() : 0;
    service_.metrics.tokens(model_.name, event.tokens.size(), seconds);
    choice.begun = true;
    choice.last = now;
  }
  const EngineUsage& before = choice.before;
  choice.usage = event.usage;
  if (before.generated_tokens == 0) return;
  choice.usage.prompt_tokens = before.prompt_tokens;
  choice.usage.cached_tokens = before.cached_tokens;
  choice.usage.queue_seconds = before.queue_seconds;
  choice.usage.first_token_seconds = before.first_token_seconds;
  choice.usage.total_seconds += before.total_seconds;
  choice.usage.generated_tokens += before.generated_tokens;
}

TokenUsage Generation::usage() const {
  TokenUsage sum;
  for (const Choice& choice : choices_) {
    sum.generated += choice.usage.generated_tokens;
    if (!choice.first_of_prompt) continue;
    sum.prompt += choice.usage.prompt_tokens;
    sum.cached += choice.usage.cached_tokens;
  }
  return sum;
}

void Generation::log_end() {
  const TokenUsage sum = usage();
  call_.log->set("model", model_.name);
  call_.log->set("prompt_tokens", sum.prompt);
  call_.log->set("cached_tokens", sum.cached);
  call_.log->set("generated_tokens", sum.generated);
}

}  // namespace metal_marlin::server

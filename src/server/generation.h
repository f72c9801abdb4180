// The samples of one request of the API, from the engine to whoever writes the answer.
#pragma once

#include <functional>
#include <mutex>

#include "server/api_error.h"
#include "server/service.h"

namespace metal_marlin::server {

// Of all choices of a request.
struct TokenUsage {
  std::int64_t prompt = 0;
  std::int64_t cached = 0;
  std::int64_t generated = 0;

  [[nodiscard]] OrderedJson json() const;  // as the completions have it
};

// A request may have several prompts, of which each has several samples: its choices, prompt by prompt.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  // Calls come one at a time. Those of a choice end with one whose event is_last().
  using Sink = std::function<void(std::size_t choice, const EngineEvent& event)>;
  // Asked when a choice came to its max_tokens: what it goes on with, its prompt first; none: it has ended.
  using GoOn = std::function<std::optional<EngineRequest>(std::size_t choice)>;

  Generation(Service& service, const ServedModel& model, Call call);

  // \throws what Engine::submit() throws; then nothing runs, and the sink is not called.
  void start(std::vector<EngineRequest> requests, Sink sink, GoOn go_on = {});
  void cancel();

  // For the sink: so far.
  [[nodiscard]] TokenUsage usage() const;
  [[nodiscard]] bool all_ended() const { return open_ == 0; }

 private:
  struct Choice {
    EngineUsage before;  // of the requests that it went on from
    EngineUsage usage;
    std::chrono::steady_clock::time_point last;
    bool begun = false;
    bool first_of_prompt = false;
  };
  void submit(EngineRequest request, std::size_t first_choice);
  void take(std::size_t choice, const EngineEvent& event);
  bool continue_choice(std::size_t choice, EngineEvent& event);
  void account(Choice& choice, const EngineEvent& event);
  void log_end();

  Service& service_;
  const ServedModel& model_;
  Call call_;
  Sink sink_;
  GoOn go_on_;
  std::vector<Choice> choices_;
  std::size_t open_ = 0;
  std::mutex mutex_;  // of what follows
  std::vector<RequestId> ids_;
  bool cancelled_ = false;
};

// "stop", "length", ... as finish_reason.
const char* finish_reason(const EngineEvent& event);

// What a failed sample, or one that the server had to cancel, is to a client.
std::optional<ApiError> failure_of(const EngineEvent& event);

}  // namespace metal_marlin::server

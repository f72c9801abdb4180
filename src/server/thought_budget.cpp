#include "server/thought_budget.h"

#include <algorithm>

namespace metal_marlin::server {

ThoughtBudget::ThoughtBudget(const ServedModel& model, EngineRequest request, int budget)
    : model_(model), request_(std::move(request)), budget_(budget) {}

EngineRequest ThoughtBudget::first() const {
  EngineRequest first = request_;
  limit(first);
  first.max_tokens = std::min(budget_, *first.max_tokens);
  first.min_tokens = std::min(first.min_tokens, *first.max_tokens);
  return first;
}

std::optional<ThoughtBudget::More> ThoughtBudget::go_on(bool in_thought) {
  const auto used = static_cast<int>(tokens_.size());
  if (was_cut_ || (request_.max_tokens && used >= *request_.max_tokens)) return std::nullopt;
  was_cut_ = true;
  More more{request_, {}};
  EngineRequest& next = more.request;
  next.guided = tokens_.size();
  next.prompt.insert(next.prompt.end(), tokens_.begin(), tokens_.end());
  if (in_thought) {
    more.closing = "\n" + model_.reasoning->close + "\n\n";
    const auto ids = model_.tokenizer->encode(more.closing, {.add_special = false, .parse_special = true});
    next.prompt.insert(next.prompt.end(), ids.begin(), ids.end());
    next.guided = 0;  // its text begins here, behind the thought
    next.thought.reset();
  }
  next.answered = next.prompt.size() - request_.prompt.size();
  if (next.max_tokens) *next.max_tokens -= used;
  next.min_tokens = std::max(0, next.min_tokens - used);
  limit(next);
  if (*next.max_tokens <= 0) return std::nullopt;
  return more;
}

// A tag that closed a thought takes room in the context that was not asked for: the answer may end earlier.
void ThoughtBudget::limit(EngineRequest& request) const {
  const std::int64_t left = model_.engine->plan().context - static_cast<std::int64_t>(request.prompt.size());
  request.max_tokens = static_cast<int>(std::min<std::int64_t>(left, request.max_tokens.value_or(INT32_MAX)));
  request.min_tokens = std::min(request.min_tokens, std::max(0, *request.max_tokens));
}

}  // namespace metal_marlin::server

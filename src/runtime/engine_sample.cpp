#include "runtime/engine_sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/seconds_since.h"

namespace metal_marlin {
namespace {

// Samples of one request.
constexpr int kMostSamples = 256;

void require_field(bool ok, std::string_view field, std::int64_t found, const std::string& expected) {
  if (!ok)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("request: {} is {}, expected {}", field, found, expected));
}

void check_tokens(const EngineRequest& r, std::int64_t vocab) {
  const auto require_token = [&](TokenId id, std::string_view field) {
    require_field(id >= 0 && id < vocab, field, id, fmt::format("a token of the vocabulary of {}", vocab));
  };
  for (const TokenId id : r.prompt) require_token(id, "a token of the prompt");
  for (const TokenId id : r.stop_ids) require_token(id, "a token of stop_ids");
  for (const TokenId id : r.logprob_ids) require_token(id, "a token of logprob_ids");
  for (const auto& [id, bias] : r.sampler.logit_bias) require_token(id, "a token of logit_bias");
}

void check_length(const EngineRequest& r, std::int64_t context) {
  const auto prompt = static_cast<std::int64_t>(r.prompt.size());
  const std::int64_t most = r.max_tokens.value_or(1);
  if (prompt + most <= context) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("the prompt has {} tokens, with {} to generate that is {}; the context holds {}", prompt,
                          most, prompt + most, context));
}

SamplerOptions sampler_of(const EngineRequest& request, int index) {
  SamplerOptions out = request.sampler;
  out.seed += static_cast<std::uint64_t>(index);
  return out;
}

}  // namespace

void validate(const EngineRequest& r, const ModelInfo& model, std::int64_t context, bool has_tokenizer) {
  if (r.prompt.empty()) throw Error(ErrorCode::kInvalidArgument, "request: the prompt has no tokens");
  check_tokens(r, model.vocab);
  const bool draws = r.max_tokens.value_or(1) > 0;
  if (r.max_tokens) {
    require_field(*r.max_tokens >= (r.prompt_logprobs ? 0 : 1), "max_tokens", *r.max_tokens,
                  "1 or more, or 0 with prompt_logprobs");
  }
  check_length(r, context);
  const std::int64_t most =
      r.max_tokens.value_or(static_cast<int>(context - static_cast<std::int64_t>(r.prompt.size())));
  require_field(r.min_tokens >= 0 && r.min_tokens <= most, "min_tokens", r.min_tokens,
                fmt::format("0 to the {} tokens that there may be", most));
  require_field(r.samples >= 1 && r.samples <= (draws ? kMostSamples : 1), "samples", r.samples,
                draws ? fmt::format("1 to {}", kMostSamples) : "1 where max_tokens is 0");
  require_field(r.logprobs >= (r.prompt_logprobs ? 0 : -1) && r.logprobs <= model.vocab, "logprobs", r.logprobs,
                r.prompt_logprobs ? "0 to the vocabulary's size, with prompt_logprobs" : "-1 to the vocabulary's size");
  if (!r.adapter.empty() && std::find(model.adapters.begin(), model.adapters.end(), r.adapter) == model.adapters.end())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("request: adapter is {}, which was not loaded", r.adapter));
  validate(r.sampler);
  for (const std::string& stop : r.stop) require_field(!stop.empty(), "a stop text's length", 0, "1 or more");
  if (!r.stop.empty() && !has_tokenizer)
    throw Error(ErrorCode::kInvalidArgument, "request: there are stop texts, but the model has no tokenizer");
  require_field(r.guided <= std::min(r.answered, r.prompt.size()), "guided", static_cast<std::int64_t>(r.guided),
                "no more tokens than `answered` of the prompt");
  if (r.tokenizer && !has_tokenizer)
    throw Error(ErrorCode::kInvalidArgument, "request: there is a tokenizer, but the model has none");
  if (r.grammar && !has_tokenizer)
    throw Error(ErrorCode::kInvalidArgument, "request: there is a grammar, but the model has no tokenizer");
}

std::vector<TokenId> end_tokens(const EngineRequest& request, const ModelInfo& model) {
  std::vector<TokenId> out = request.stop_ids;
  if (!request.ignore_end) out.insert(out.end(), model.end_tokens.begin(), model.end_tokens.end());
  return out;
}

TokenLogprob logprob_of(std::span<const float> logits, TokenId id, int top, std::span<const TokenId> asked) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - largest));
  const double norm = static_cast<double>(largest) + std::log(sum);
  const auto of = [&](TokenId token) {
    return static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(token)]) - norm);
  };
  TokenLogprob out{id, of(id), {}};
  for (const TokenId token : asked) out.asked.push_back(of(token));
  if (top == 0) return out;
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto middle = ids.begin() + std::min<std::ptrdiff_t>(top, std::ssize(ids));
  std::partial_sort(ids.begin(), middle, ids.end(), [&](TokenId a, TokenId b) {
    const float of_a = logits[static_cast<std::size_t>(a)];
    const float of_b = logits[static_cast<std::size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  for (auto each = ids.begin(); each != middle; ++each) out.top.emplace_back(*each, of(*each));
  return out;
}

Sample::Sample(std::shared_ptr<Request> request, int index, const ModelInfo& model, std::int64_t context,
               const std::shared_ptr<const Tokenizer>& tokenizer)
    : request_(std::move(request)),
      index_(index),
      draws_(asked().max_tokens.value_or(1) > 0),
      most_tokens_(asked().max_tokens.value_or(static_cast<int>(context - prompt_size()))),
      tokens_(asked().prompt),
      ends_(end_tokens(asked(), model)),
      sampler_(sampler_of(asked(), index)),
      stop_(asked().stop, asked().show_stop) {
  if (asked().grammar) guide_ = std::move(request_->guides[static_cast<std::size_t>(index)]);
  usage.prompt_tokens = prompt_size();
  const std::size_t said = std::min(asked().answered, tokens_.size());
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    if (i + said < tokens_.size()) {
      sampler_.accept_prompt(tokens_[i]);
    } else {
      sampler_.accept(tokens_[i]);
    }
  }
  if (tokenizer) detokenizer_.emplace(asked().tokenizer ? asked().tokenizer : tokenizer, true, asked().prompt);
  if (asked().min_tokens > 0) sampler_.forbid(ends_);
  if (next_prompt_logprob() == 0) {
    event_.prompt_logprobs.push_back({asked().prompt.front(), 0, {}});
    prompt_logprobs_done_ = 1;
  }
}

std::int64_t Sample::next_prompt_logprob() const {
  return asked().prompt_logprobs && index_ == 0 ? prompt_logprobs_done_ : prompt_size();
}

void Sample::take_prompt_logits(std::span<const float> logits) {
  const TokenId id = tokens_[static_cast<std::size_t>(prompt_logprobs_done_++)];
  event_.prompt_logprobs.push_back(logprob_of(logits, id, asked().logprobs, asked().logprob_ids));
}

void Sample::prepare_draw() {
  if (guide_) sampler_.allow(guide_->allowed());
}

TokenId Sample::draw(std::span<const float> logits) {
  const TokenId id = sampler_.sample(logits);
  drawn_logprob_ = logprob_of(logits, id, asked().logprobs, asked().logprob_ids);
  return id;
}

TokenId Sample::draw_and_take(std::span<const float> logits) {
  prepare_draw();
  const TokenId id = wants_logits() ? draw(logits) : sampler_.sample(logits);
  take(id);
  return id;
}

void Sample::take(TokenId id) {
  if (std::find(ends_.begin(), ends_.end(), id) != ends_.end()) return end(StopReason::kEndToken);
  if (usage.generated_tokens++ == 0) usage.first_token_seconds = seconds_since(request_->submitted);
  tokens_.push_back(id);
  event_.tokens.push_back(id);
  if (asked().logprobs >= 0) event_.logprobs.push_back(*std::exchange(drawn_logprob_, std::nullopt));
  if (detokenizer_) show(detokenizer_->push(id));
  if (usage.generated_tokens == asked().min_tokens) sampler_.forbid({});
  if (stop_.stopped()) return end(StopReason::kStopText);
  if (guide_) guide_->take(id);
  if (guide_ && guide_->has_ended()) return end(StopReason::kEndToken);
  if (usage.generated_tokens == most_tokens_) end(StopReason::kLength);
}

// Stop texts count in what comes after min_tokens.
void Sample::show(const std::string& text) {
  event_.text += usage.generated_tokens <= asked().min_tokens ? text : stop_.push(text);
}

void Sample::end(StopReason reason) {
  if (detokenizer_ && reason != StopReason::kCancelled) show(detokenizer_->finish());
  event_.text += stop_.finish();
  event_.finished = stop_.stopped() ? StopReason::kStopText : reason;
  event_.stop_text = stop_.found();
  usage.total_seconds = seconds_since(request_->submitted);
}

void Sample::fail(const Error& error) {
  event_.error = error;
  usage.total_seconds = seconds_since(request_->submitted);
}

OwnedEvent Sample::take_event() {
  OwnedEvent out = std::move(event_);
  event_ = {};
  event_.finished = out.finished;  // it stays ended
  event_.error = out.error;
  out.request = request_;
  out.sample = index_;
  out.usage = usage;
  return out;
}

}  // namespace metal_marlin

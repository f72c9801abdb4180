// A request of an engine, and each of its samples as it goes on. Of the cache it knows nothing.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "grammar/guide.h"
#include "metal_marlin/engine.h"
#include "runtime/stop_text.h"

namespace metal_marlin {

// What threads share of a request. What was asked does not change.
struct Request {
  RequestId id = 0;
  EngineRequest asked;
  OnEngineEvent on_event;
  std::chrono::steady_clock::time_point submitted;
  std::atomic<bool> cancelled{false};
  std::atomic<bool> started{false};                   // one of its samples was in the cache
  bool is_muted = false;                              // its callback threw; of the thread that calls it
  std::vector<std::unique_ptr<GrammarGuide>> guides;  // one a sample, which takes it; none without a grammar
};

// An EngineEvent that owns what it tells.
struct OwnedEvent {
  std::shared_ptr<Request> request;
  int sample = 0;
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
  std::optional<StopReason> finished;
  std::optional<Error> error;
  EngineUsage usage;
  std::string stop_text;

  [[nodiscard]] bool is_last() const { return finished.has_value() || error.has_value(); }
};

// \throws Error (kInvalidArgument) naming the field, what was found and what was expected.
void validate(const EngineRequest& request, const ModelInfo& model, std::int64_t context, bool has_tokenizer);

// Tokens that end a sample.
std::vector<TokenId> end_tokens(const EngineRequest& request, const ModelInfo& model);

// The token's log softmax, those of the `top` likeliest, and those that are asked for by their ids.
TokenLogprob logprob_of(std::span<const float> logits, TokenId id, int top, std::span<const TokenId> asked);

class Sample {
 public:
  // tokenizer: null: the model has none, and there is no text.
  Sample(std::shared_ptr<Request> request, int index, const ModelInfo& model, std::int64_t context,
         const std::shared_ptr<const Tokenizer>& tokenizer);

  [[nodiscard]] const EngineRequest& asked() const { return request_->asked; }
  [[nodiscard]] Request& request() const { return *request_; }
  [[nodiscard]] int index() const { return index_; }
  // The prompt, and what was drawn.
  [[nodiscard]] std::span<const TokenId> tokens() const { return tokens_; }
  [[nodiscard]] std::int64_t prompt_size() const { return static_cast<std::int64_t>(asked().prompt.size()); }
  // Tokens that the cache must hold before the next event: all, but for a prompt of which only logprobs are wanted.
  [[nodiscard]] std::int64_t target() const { return static_cast<std::int64_t>(tokens_.size()) - (draws_ ? 0 : 1); }
  [[nodiscard]] bool draws() const { return draws_; }
  // Tokens that may still be generated.
  [[nodiscard]] std::int64_t most_left() const { return most_tokens_ - usage.generated_tokens; }
  [[nodiscard]] Sampler& sampler() { return sampler_; }
  // Whether what is drawn from must be shown, for its logprobs.
  [[nodiscard]] bool wants_logits() const { return draws_ && asked().logprobs >= 0; }
  // The first token whose logprob is still to come; the prompt's size: none is.
  [[nodiscard]] std::int64_t next_prompt_logprob() const;
  // Whether some are: what the cache has of the prompt is of no use then.
  [[nodiscard]] bool wants_whole_prompt() const { return next_prompt_logprob() < prompt_size(); }

  // Logits that follow the token before next_prompt_logprob().
  void take_prompt_logits(std::span<const float> logits);
  // Before a token is drawn, with or without draw(). \throws Error where its grammar cannot go on.
  void prepare_draw();
  // Draws from logits that were shown. \returns the token.
  TokenId draw(std::span<const float> logits);
  // Draws from logits that were shown, and goes on with that token, which it returns. \throws as prepare_draw().
  TokenId draw_and_take(std::span<const float> logits);
  // Goes on with a token that was drawn.
  void take(TokenId id);
  void end(StopReason reason);
  void fail(const Error& error);
  [[nodiscard]] bool has_ended() const { return event_.is_last(); }
  // Whether there is something to tell: logprobs of a prompt come with what follows it.
  [[nodiscard]] bool has_news() const { return !event_.tokens.empty() || !event_.text.empty() || has_ended(); }
  // What came since the last call.
  OwnedEvent take_event();

  EngineUsage usage;
  std::int64_t computed = 0;  // most tokens that the cache held of it
  bool has_entered = false;   // the cache, once

 private:
  void show(const std::string& text);

  std::shared_ptr<Request> request_;
  int index_;
  bool draws_;
  std::int64_t most_tokens_;  // to generate
  std::vector<TokenId> tokens_;
  std::vector<TokenId> ends_;
  Sampler sampler_;
  std::unique_ptr<GrammarGuide> guide_;  // none: any text will do
  StopText stop_;
  std::optional<Detokenizer> detokenizer_;
  std::optional<TokenLogprob> drawn_logprob_;
  std::int64_t prompt_logprobs_done_ = 0;
  OwnedEvent event_;
};

}  // namespace metal_marlin

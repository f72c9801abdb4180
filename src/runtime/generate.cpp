#include "metal_marlin/generate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "base/seconds_since.h"
#include "grammar/guide.h"
#include "metal_marlin/error.h"
#include "runtime/stop_text.h"

namespace metal_marlin {
namespace {

// Tokens of the prompt in one step.
constexpr std::size_t kPromptChunk = 512;

class Generation {
 public:
  Generation(const std::shared_ptr<const Model>& model, const GenerateOptions& options, const OnText& on_text)
      : model_(model), options_(options), on_text_(on_text), sampler_(options.sampler), stop_(options.stop) {
    try {
      tokenizer_ = model->tokenizer();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNotFound) throw;
      if (!options.stop.empty() || options.grammar) throw;
    }
    if (!options.grammar) return;
    const ModelInfo& info = model->info();
    guide_.emplace(std::make_shared<GrammarVocabulary>(tokenizer_, info.vocab), options.grammar,
                   options.ignore_end ? std::vector<TokenId>() : info.end_tokens, options.thought);
  }

  GenerateResult run(std::span<const TokenId> prompt) {
    if (prompt.empty()) throw Error(ErrorCode::kInvalidArgument, "the prompt has no tokens");
    if (tokenizer_) detokenizer_.emplace(tokenizer_, true, prompt);
    SessionOptions session_options;
    session_options.cache_tokens = static_cast<std::int64_t>(prompt.size()) + std::max(options_.max_tokens, 0);
    session_options.batch_tokens = static_cast<int>(std::min(prompt.size(), kPromptChunk));
    session_options.batch_logits = 1;
    Session session(model_, session_options);
    const SequenceId sequence = session.open();
    for (const TokenId id : prompt) sampler_.accept_prompt(id);
    result_.prompt_tokens = prompt.size();
    TokenId next = 0;
    const auto step = [&](std::span<const TokenId> tokens, Sampler* sampler) {
      if (guide_ && sampler != nullptr) sampler->allow(guide_->allowed());
      session.sample(std::array{SequenceInput{sequence, tokens}}, {&sampler, 1}, {&next, 1});
    };
    auto start = std::chrono::steady_clock::now();
    for (std::size_t begin = 0; begin < prompt.size(); begin += kPromptChunk) {
      if (begin > 0) emit("");  // a chance to cancel
      if (result_.reason == StopReason::kCancelled) return std::move(result_);
      const auto chunk = prompt.subspan(begin, std::min(kPromptChunk, prompt.size() - begin));
      const bool last = begin + chunk.size() == prompt.size();
      step(chunk, last ? &sampler_ : nullptr);
    }
    result_.prompt_seconds = seconds_since(start);
    start = std::chrono::steady_clock::now();
    for (int i = 0; i < options_.max_tokens && take(next); ++i) {
      if (i + 1 < options_.max_tokens) step({&next, 1}, &sampler_);
    }
    result_.decode_seconds = seconds_since(start);
    if (detokenizer_) show(detokenizer_->finish());
    emit(stop_.finish());
    if (stop_.stopped()) result_.reason = StopReason::kStopText;
    return std::move(result_);
  }

 private:
  // Whether to go on after `id`.
  bool take(TokenId id) {
    const auto& ends = model_->info().end_tokens;
    if (!options_.ignore_end && std::find(ends.begin(), ends.end(), id) != ends.end()) {
      result_.reason = StopReason::kEndToken;
      return false;
    }
    result_.tokens.push_back(id);
    show(detokenizer_ ? detokenizer_->push(id) : std::string());
    if (stop_.stopped()) return false;
    if (guide_) {
      guide_->take(id);
      if (guide_->has_ended()) {
        result_.reason = StopReason::kEndToken;
        return false;
      }
    }
    return result_.reason != StopReason::kCancelled;
  }

  void show(const std::string& text) { emit(stop_.push(text)); }

  void emit(const std::string& text) {
    result_.text += text;
    if (on_text_ && !on_text_(text)) result_.reason = StopReason::kCancelled;
  }

  const std::shared_ptr<const Model>& model_;
  const GenerateOptions& options_;
  const OnText& on_text_;
  Sampler sampler_;
  StopText stop_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // nothing where the model has none
  std::optional<Detokenizer> detokenizer_;
  std::optional<GrammarGuide> guide_;
  GenerateResult result_;
};

}  // namespace

const char* stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kLength: return "length";
    case StopReason::kEndToken: return "end";
    case StopReason::kStopText: return "stop";
    case StopReason::kCancelled: return "cancelled";
  }
  return "";
}

GenerateResult generate(const std::shared_ptr<const Model>& model, std::span<const TokenId> prompt,
                        const GenerateOptions& options, const OnText& on_text) {
  return Generation(model, options, on_text).run(prompt);
}

}  // namespace metal_marlin

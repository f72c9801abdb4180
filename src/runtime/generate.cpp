#include "metal_marlin/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <vector>

#include "backends/cache_type.h"
#include "base/seconds_since.h"
#include "grammar/guide.h"
#include "metal_marlin/error.h"
#include "metal_marlin/sequence_file.h"
#include "runtime/engine_sample.h"
#include "runtime/speculation.h"

namespace metal_marlin {
namespace {

// Tokens of the prompt in one step.
constexpr std::size_t kPromptChunk = 512;

std::shared_ptr<const Tokenizer> tokenizer_for(const Model& model, const GenerateOptions& options) {
  try {
    return model.tokenizer();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound || !options.stop.empty() || options.grammar) throw;
    return nullptr;
  }
}

std::shared_ptr<Request> generate_request(const Model& model, std::span<const TokenId> prompt,
                                          const GenerateOptions& options,
                                          const std::shared_ptr<const Tokenizer>& tokenizer) {
  auto out = std::make_shared<Request>();
  out->asked.prompt.assign(prompt.begin(), prompt.end());
  out->asked.max_tokens = std::max(options.max_tokens, 0);
  out->asked.sampler = options.sampler;
  out->asked.stop = options.stop;
  out->asked.ignore_end = options.ignore_end;
  out->asked.grammar = options.grammar;
  out->submitted = std::chrono::steady_clock::now();
  if (!options.grammar) return out;
  const auto vocabulary = std::make_shared<GrammarVocabulary>(tokenizer, model.info().vocab);
  out->guides.push_back(std::make_unique<GrammarGuide>(vocabulary, options.grammar,
                                                       end_tokens(out->asked, model.info()), options.thought));
  return out;
}

// What the file has; nothing where it is not there and may be written.
std::optional<SavedSequence> read_prompt_cache(const Model& model, const GenerateOptions& options) {
  if (options.prompt_cache.empty()) return std::nullopt;
  if (!options.prompt_cache_read_only && !std::filesystem::exists(options.prompt_cache)) return std::nullopt;
  SavedSequence saved = read_sequence(options.prompt_cache, model);
  if (saved.adapter == options.adapter) return saved;
  const auto named = [](const std::string& adapter) { return adapter.empty() ? "none" : adapter; };
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: a sequence of another adapter: it is {}, expected {}", options.prompt_cache.string(),
                          named(saved.adapter), named(options.adapter)));
}

SessionOptions generate_session(std::size_t prompt, const GenerateOptions& options, std::int64_t saved = 0) {
  SessionOptions out;
  out.cache_tokens = std::max(static_cast<std::int64_t>(prompt) + std::max(options.max_tokens, 0), saved);
  if (!options.prompt_cache.empty()) {
    out.prefix_cache = true;               // it knows the tokens
    out.cache_tokens += kCachePageTokens;  // a page that was read is copied before it is continued in another way
  }
  out.batch_tokens = static_cast<int>(std::min(prompt, kPromptChunk));
  out.batch_logits = 1;
  if (!options.speculation.any()) return out;
  out.batch_logits += options.speculation.tokens;
  out.batch_tokens = std::max(out.batch_tokens, out.batch_logits);
  out.one_order = true;  // what is checked among others is drawn as if it were alone
  return out;
}

class Generation {
 public:
  Generation(const std::shared_ptr<const Model>& model, std::span<const TokenId> prompt, const GenerateOptions& options,
             const OnText& on_text)
      : options_(options),
        on_text_(on_text),
        tokenizer_(tokenizer_for(*model, options)),
        sample_(generate_request(*model, prompt, options, tokenizer_), 0, model->info(), model->info().max_positions,
                tokenizer_),
        model_(model),
        saved_(read_prompt_cache(*model, options)),
        session_(model, with_hidden(generate_session(prompt.size(), options, saved_ ? saved_->length : 0))),
        sequence_(session_.open(options.adapter)) {
    if (!options.speculation.any()) return;
    const SessionOptions own = generate_session(prompt.size(), options);
    speculation_.emplace(options.speculation,
                         make_proposer(options.speculation, *model, 1, own.cache_tokens, own.batch_tokens));
    guess_ = speculation_->begin();
  }

  GenerateResult run(std::span<const TokenId> prompt) {
    result_.prompt_tokens = prompt.size();
    auto start = std::chrono::steady_clock::now();
    result_.cached_tokens = go_on_from_file(prompt);
    for (std::size_t begin = result_.cached_tokens; begin < prompt.size() && !sample_.has_ended();
         begin += kPromptChunk) {
      const auto chunk = prompt.subspan(begin, std::min(kPromptChunk, prompt.size() - begin));
      step(chunk, begin + chunk.size() == prompt.size() && sample_.draws());
      if (begin + chunk.size() < prompt.size()) emit("");  // a chance to cancel
    }
    result_.prompt_seconds = seconds_since(start);
    write_file(prompt);
    start = std::chrono::steady_clock::now();
    if (!sample_.draws()) sample_.end(StopReason::kLength);
    tell();
    while (!sample_.has_ended()) {
      advance();
      tell();
    }
    result_.decode_seconds = seconds_since(start);
    if (speculation_) result_.speculation = speculation_->stats();
    return std::move(result_);
  }

 private:
  SessionOptions with_hidden(SessionOptions out) {
    if (options_.speculation.mtp)
      out.on_hidden = [this](const HiddenRows& rows) {
        hidden_.insert(hidden_.end(), rows.values.begin(), rows.values.end());
      };
    return out;
  }

  // Tokens of the prompt that need not be computed: not the last, whose logits are wanted.
  std::size_t go_on_from_file(std::span<const TokenId> prompt) {
    if (!saved_) return 0;
    const auto differ = std::mismatch(prompt.begin(), prompt.end(), saved_->tokens.begin(), saved_->tokens.end());
    const auto same = static_cast<std::size_t>(differ.first - prompt.begin());
    file_is_whole_ = same == prompt.size();
    session_.restore(sequence_, *saved_);
    saved_.reset();
    const std::size_t kept = std::min(same, prompt.size() - 1);
    session_.truncate(sequence_, static_cast<std::int64_t>(kept));
    return kept;
  }

  void write_file(std::span<const TokenId> prompt) {
    if (options_.prompt_cache.empty() || options_.prompt_cache_read_only || file_is_whole_) return;
    if (session_.length(sequence_) != static_cast<std::int64_t>(prompt.size())) return;  // it was cancelled
    write_sequence(options_.prompt_cache, session_.save(sequence_), *model_);
  }

  // The first `count` of the step's hidden states are those of the sequence's tokens.
  void see_hidden(std::int64_t begin, int count, int total) {
    if (!speculation_ || !speculation_->wants_hidden()) return;
    const std::size_t width = hidden_.size() / static_cast<std::size_t>(total);
    speculation_->see(*guess_, sample_.tokens(), begin,
                      std::span(hidden_).first(static_cast<std::size_t>(count) * width));
    hidden_.clear();
  }

  // Tokens of the prompt, or the last one.
  void step(std::span<const TokenId> tokens, bool draws) {
    if (draws) sample_.prepare_draw();
    Sampler* const sampler = draws ? &sample_.sampler() : nullptr;
    TokenId next = -1;
    const std::int64_t begin = session_.length(sequence_);
    const auto count = static_cast<int>(tokens.size());  // the sample's tokens may move below
    session_.sample(std::array{SequenceInput{sequence_, tokens}}, {&sampler, 1}, {&next, 1});
    see_hidden(begin, count, count);
    if (!draws) return;
    sample_.take(next);
    news_.push_back(sample_.take_event());
  }

  // One more token, or those that were guessed and one more.
  void advance() {
    if (!speculation_) return step(sample_.tokens().last(1), true);
    const std::array request{Speculation::Request{
        guess_.get(), sample_.tokens(),
        static_cast<int>(std::min<std::int64_t>(sample_.most_left() - 1, options_.speculation.tokens)),
        &sample_.sampler()}};
    speculation_->propose(request, 1, options_.speculation.tokens);
    const auto start = std::chrono::steady_clock::now();
    if (guess_->guessed() > 0) {
      check_guess();
    } else {
      step(sample_.tokens().last(1), true);
    }
    speculation_->record(std::array{guess_.get()}, 1, seconds_since(start));
  }

  void check_guess() {
    const std::int64_t begin = session_.length(sequence_);
    const SequenceInput input{sequence_, guess_->step(), 0, static_cast<std::size_t>(guess_->guessed())};
    Sampler* const none = nullptr;
    TokenId next = -1;
    NotFinite failed;
    const LogitsSink sink = [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows) {
        if (guess_->check(sample_, row.values)) news_.push_back(sample_.take_event());
      }
    };
    session_.sample({&input, 1}, {&none, 1}, {&next, 1}, sink, &failed);
    see_hidden(begin, guess_->checked(), guess_->guessed() + 1);
    session_.truncate(sequence_, begin + guess_->checked());
    if (!failed.inputs.empty()) guess_->distrust();  // the step without it tells
    if (sample_.has_ended() && (news_.empty() || !news_.back().is_last())) news_.push_back(sample_.take_event());
  }

  // Of each token that was drawn, until one is the last that is wanted.
  void tell() {
    for (OwnedEvent& event : news_) {
      if (event.error) throw *event.error;
      if (event.finished) result_.reason = *event.finished;
      result_.tokens.insert(result_.tokens.end(), event.tokens.begin(), event.tokens.end());
      if (!emit(event.text)) break;
    }
    news_.clear();
  }

  bool emit(const std::string& text) {
    result_.text += text;
    if (!on_text_ || on_text_(text)) return true;
    result_.reason = StopReason::kCancelled;
    sample_.end(StopReason::kCancelled);
    return false;
  }

  const GenerateOptions& options_;
  const OnText& on_text_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // nothing where the model has none
  Sample sample_;
  std::shared_ptr<const Model> model_;
  std::optional<SavedSequence> saved_;  // what the file has, until the session has it
  bool file_is_whole_ = false;          // it has all of the prompt
  Session session_;
  SequenceId sequence_;
  std::optional<Speculation> speculation_;
  std::unique_ptr<Speculation::Sequence> guess_;
  std::vector<OwnedEvent> news_;
  std::vector<float> hidden_;  // of the last step
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
  if (prompt.empty()) throw Error(ErrorCode::kInvalidArgument, "the prompt has no tokens");
  if (options.prompt_cache_read_only && options.prompt_cache.empty())
    throw Error(ErrorCode::kInvalidArgument, "prompt_cache_read_only: no prompt_cache is given");
  if (options.speculation.any()) validate(options.speculation, *model);
  return Generation(model, prompt, options, on_text).run(prompt);
}

}  // namespace metal_marlin

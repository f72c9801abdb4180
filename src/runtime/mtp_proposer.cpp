#include "runtime/mtp_proposer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "metal_marlin/error.h"
#include "runtime/drafting.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
namespace {

constexpr std::array kMtpExpected{0.7};
// Hidden states that wait for the next guess; more, such as a prompt's, go through the layer at once.
constexpr std::size_t kMostWaiting = 32;
// Places of a sequence's guess, beside those of its tokens: a cache that is full of these has room for guesses.
constexpr std::int64_t kGuessPlaces = 64;

}  // namespace

struct MtpProposer::Predicted : DraftedSequence {
  using DraftedSequence::DraftedSequence;

  bool begun = false;
  std::int64_t held = 0;       // pairs in the cache, those of guesses apart
  std::int64_t next = 0;       // the first token whose hidden state did not go through the layer
  std::vector<float> waiting;  // hidden states from there on
};

struct MtpProposer::Drafting {
  Request* request;
  Predicted* sequence;
  std::vector<float> hidden;       // that the next token of the guess is made of: those that wait, then its own
  std::optional<Sampler> sampler;  // without one: it waits

  [[nodiscard]] SequenceInput input() const {
    const std::vector<TokenId>& guess = request->guess;
    if (!guess.empty()) return {sequence->id, std::span(guess).last(1), kLastLogits, 1, hidden};
    // Pairs up to the last token, which has no hidden state yet.
    return {sequence->id, request->tokens.subspan(static_cast<std::size_t>(sequence->next) + 1), kLastLogits, 0,
            hidden};
  }
};

MtpProposer::MtpProposer(const Model& model, int sequences, std::int64_t cache_tokens, int step_tokens)
    : layer_(model.impl_->prediction),
      width_(static_cast<std::size_t>(model.info().hidden)),
      session_(layer_, session_options(sequences, cache_tokens, step_tokens)) {}

MtpProposer::~MtpProposer() = default;

// Pages are found again by their tokens, which lack the first of all: it has no hidden state before it. Texts that
// differ in that token alone would find each other's, and so would those of different adapters, which the layer knows
// nothing of; their guesses would be a little worse.
SessionOptions MtpProposer::session_options(int sequences, std::int64_t cache_tokens, int step_tokens) {
  SessionOptions out;
  out.max_sequences = sequences;
  out.cache_tokens = cache_tokens + sequences * kGuessPlaces;
  out.batch_tokens = step_tokens;
  out.batch_logits = sequences;
  out.prefix_cache = true;
  out.on_hidden = [this](const HiddenRows& rows) {
    const auto at = static_cast<std::size_t>(rows.input) * width_;
    if (shown_.size() >= at + width_)
      std::copy(rows.values.begin(), rows.values.end(), shown_.begin() + static_cast<std::ptrdiff_t>(at));
  };
  return out;
}

void MtpProposer::require_prediction(const Model& model) {
  if (model.impl_->prediction) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("speculation: mtp, but the model {} has no layers that predict the next tokens, or was loaded "
                  "without them",
                  model.impl_->path));
}

std::unique_ptr<Proposer::Sequence> MtpProposer::begin() {
  return std::make_unique<Predicted>(session_, session_.open());
}

void MtpProposer::see(Sequence& of, std::span<const TokenId> tokens, std::int64_t begin, std::span<const float> rows) {
  auto& sequence = static_cast<Predicted&>(of);
  if (sequence.failed || rows.empty()) return;
  const auto waiting = static_cast<std::int64_t>(sequence.waiting.size() / width_);
  if (!std::exchange(sequence.begun, true) && begin > 0) {
    const std::int64_t found = session_.reuse(sequence.id, tokens.subspan(1));
    sequence.held = std::min(found, begin);
    sequence.next = begin;
  } else if (begin != sequence.next + waiting) {  // what is between is left out
    sequence.waiting.clear();
    sequence.next = begin;
  }
  sequence.waiting.insert(sequence.waiting.end(), rows.begin(), rows.end());
  if (sequence.waiting.size() > kMostWaiting * width_) keep_up(sequence, tokens);
}

// All that waits and whose next token is known goes through the layer.
void MtpProposer::keep_up(Predicted& sequence, std::span<const TokenId> tokens) {
  const auto known = static_cast<std::int64_t>(tokens.size()) - 1 - sequence.next;
  const std::int64_t count = std::min(static_cast<std::int64_t>(sequence.waiting.size() / width_), known);
  if (count <= 0) return;
  const auto values = static_cast<std::size_t>(count) * width_;
  try {
    session_.truncate(sequence.id, sequence.held);
    const SequenceInput input{
        sequence.id, tokens.subspan(static_cast<std::size_t>(sequence.next) + 1, static_cast<std::size_t>(count)),
        kNoLogits, 0, std::span(sequence.waiting).first(values)};
    session_.step({&input, 1}, {});
  } catch (const Error&) {  // its cache is full
    sequence.failed = true;
    return;
  }
  sequence.held += count;
  sequence.next += count;
  sequence.waiting.erase(sequence.waiting.begin(), sequence.waiting.begin() + static_cast<std::ptrdiff_t>(values));
}

// One more token for each.
void MtpProposer::draw(std::vector<Drafting*>& in) {
  std::vector<SequenceInput> inputs;
  std::vector<Sampler*> samplers;
  for (Drafting* const each : in) {
    inputs.push_back(each->input());
    samplers.push_back(&*each->sampler);
  }
  std::vector<TokenId> drawn(in.size());
  NotFinite failed;
  shown_.assign(in.size() * width_, 0);
  session_.sample(inputs, samplers, drawn, {}, &failed);
  for (std::size_t i = 0; i < in.size(); ++i) {
    Drafting& each = *in[i];
    if (drawn[i] < 0) {
      each.sequence->failed = true;
      each.sampler.reset();
      continue;
    }
    if (each.request->guess.empty()) {
      const auto count = static_cast<std::int64_t>(inputs[i].tokens.size());
      each.sequence->held += count;
      each.sequence->next += count;
      each.sequence->waiting.clear();
    }
    each.request->guess.push_back(drawn[i]);
    const auto row = shown_.begin() + static_cast<std::ptrdiff_t>(i * width_);
    each.hidden.assign(row, row + static_cast<std::ptrdiff_t>(width_));
  }
}

void MtpProposer::propose(std::span<Request> requests) {
  std::vector<Drafting> all;
  for (Request& request : requests) {
    auto& sequence = static_cast<Predicted&>(*request.sequence);
    const auto size = static_cast<std::int64_t>(request.tokens.size());
    request.most = static_cast<int>(std::min<std::int64_t>(request.most, layer_->info().max_positions - size));
    const auto waiting = static_cast<std::int64_t>(sequence.waiting.size() / width_);
    if (request.most <= 0 || sequence.failed || waiting == 0 || sequence.next + waiting != size - 1) continue;
    session_.truncate(sequence.id, sequence.held);  // guesses of before
    Drafting drafting{&request, &sequence, sequence.waiting, {}};
    drafting.sampler.emplace(*request.sampler);
    drafting.sampler->allow({});  // the grammar's tokens are known for the first token alone
    all.push_back(std::move(drafting));
  }
  draw_in_turns(all, [this](std::vector<Drafting*>& in) { draw(in); });
}

std::span<const double> MtpProposer::expected() const {
  return kMtpExpected;
}

}  // namespace metal_marlin

#include "runtime/draft_proposer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "metal_marlin/error.h"
#include "runtime/drafting.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
namespace {

constexpr std::array kDraftExpected{0.7};
constexpr std::size_t kMostMissing = 128;  // tokens that are computed with the first that is drawn

SessionOptions draft_session_options(const Model& draft, int sequences, std::int64_t cache_tokens, int step_tokens) {
  SessionOptions out;
  out.max_sequences = sequences;
  out.cache_tokens = std::min(cache_tokens, draft.info().max_positions * sequences);
  out.batch_tokens = step_tokens;
  out.batch_logits = sequences;
  out.prefix_cache = true;
  return out;
}

struct DraftSequence : DraftedSequence {
  using DraftedSequence::DraftedSequence;

  std::vector<TokenId> held;  // what the session has of it: tokens, and then guesses
};

}  // namespace

struct DraftProposer::Drafting {
  Request* request;
  DraftSequence* sequence;
  std::optional<Sampler> sampler;  // without one: it waits

  // What the session does not have yet of the tokens and the guess.
  [[nodiscard]] std::span<const TokenId> missing() const {
    return request->guess.empty() ? request->tokens.subspan(sequence->held.size())
                                  : std::span<const TokenId>(request->guess).last(1);
  }
};

DraftProposer::DraftProposer(std::shared_ptr<const Model> draft, std::int64_t vocabulary, int sequences,
                             std::int64_t cache_tokens, int step_tokens)
    : draft_(std::move(draft)),
      vocabulary_(vocabulary),
      step_tokens_(step_tokens),
      session_(draft_, draft_session_options(*draft_, sequences, cache_tokens, step_tokens)) {}

DraftProposer::~DraftProposer() = default;

void DraftProposer::require_same_vocabulary(const Model& draft, const Model& model) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("the draft model {} has another vocabulary than {}: {}",
                                                         draft.impl_->path, model.impl_->path, why));
  };
  const Tokenizer* const its = draft.impl_->tokenizer.get();
  const Tokenizer* const theirs = model.impl_->tokenizer.get();
  if (its == nullptr || theirs == nullptr) {
    if (draft.info().vocab != model.info().vocab)
      refuse(fmt::format("{} tokens, expected {}", draft.info().vocab, model.info().vocab));
    return;
  }
  if (its->vocab_size() != theirs->vocab_size())
    refuse(fmt::format("{} tokens, expected {}", its->vocab_size(), theirs->vocab_size()));
  // Ids that neither model can give are no part of it, and may be many.
  const std::int64_t ids = std::min(its->vocab_size(), std::max(draft.info().vocab, model.info().vocab));
  for (TokenId id = 0; id < ids; ++id) {
    const std::string text = its->decode({&id, 1}, false);
    const std::string expected = theirs->decode({&id, 1}, false);
    if (text != expected) refuse(fmt::format("token {} is \"{}\", expected \"{}\"", id, text, expected));
  }
}

std::unique_ptr<Proposer::Sequence> DraftProposer::begin() {
  return std::make_unique<DraftSequence>(session_, session_.open());
}

// Cuts what was guessed wrong. \returns whether a token can be drawn: of a prompt, each call computes a piece.
bool DraftProposer::catch_up(Drafting& drafting) {
  DraftSequence& sequence = *drafting.sequence;
  const std::span<const TokenId> tokens = drafting.request->tokens;
  const std::span<const TokenId> wanted = tokens.first(tokens.size() - 1);
  if (sequence.held.empty()) {
    const auto found = static_cast<std::size_t>(session_.reuse(sequence.id, tokens));
    sequence.held.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(found));
  }
  const auto same = static_cast<std::size_t>(
      std::mismatch(sequence.held.begin(), sequence.held.end(), wanted.begin(), wanted.end()).first -
      sequence.held.begin());
  sequence.held.resize(same);
  session_.truncate(sequence.id, static_cast<std::int64_t>(same));
  if (wanted.size() - same < kMostMissing) return true;
  const auto piece = wanted.subspan(same, std::min(wanted.size() - same, static_cast<std::size_t>(step_tokens_)));
  session_.step(std::array{SequenceInput{sequence.id, piece, kNoLogits}}, {});
  sequence.held.insert(sequence.held.end(), piece.begin(), piece.end());
  return false;
}

// One more token for each.
void DraftProposer::draw(std::vector<Drafting*>& in) {
  std::vector<SequenceInput> inputs;
  std::vector<Sampler*> samplers;
  for (Drafting* const each : in) {
    inputs.push_back({each->sequence->id, each->missing()});
    samplers.push_back(&*each->sampler);
  }
  std::vector<TokenId> next(in.size());
  NotFinite failed;
  session_.sample(inputs, samplers, next, {}, &failed);
  for (std::size_t i = 0; i < in.size(); ++i) {
    std::vector<TokenId>& held = in[i]->sequence->held;
    if (next[i] >= 0) held.insert(held.end(), inputs[i].tokens.begin(), inputs[i].tokens.end());
    if (next[i] >= 0 && next[i] < vocabulary_) {
      in[i]->request->guess.push_back(next[i]);
    } else {
      in[i]->sampler.reset();
    }
  }
}

// What the draft cannot do is no guess: the answer goes on without.
void DraftProposer::propose(std::span<Request> requests) {
  std::vector<Drafting> all;
  const std::int64_t positions = draft_->info().max_positions;
  for (Request& request : requests) {
    Drafting drafting{&request, static_cast<DraftSequence*>(request.sequence), {}};
    request.most = static_cast<int>(
        std::min<std::int64_t>(request.most, positions - static_cast<std::int64_t>(request.tokens.size())));
    if (request.most <= 0 || drafting.sequence->failed) continue;
    try {
      if (!catch_up(drafting)) continue;
    } catch (const Error&) {  // its cache is full, or a token is not in its vocabulary
      drafting.sequence->failed = true;
      continue;
    }
    drafting.sampler.emplace(*request.sampler);
    drafting.sampler->allow({});  // the grammar's tokens are known for the first token alone
    all.push_back(std::move(drafting));
  }
  draw_in_turns(all, [this](std::vector<Drafting*>& in) { draw(in); });
}

std::span<const double> DraftProposer::expected() const {
  return kDraftExpected;
}

}  // namespace metal_marlin

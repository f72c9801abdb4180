#include "runtime/speculation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/seconds_since.h"
#include "metal_marlin/error.h"
#include "runtime/draft_proposer.h"
#include "runtime/mtp_proposer.h"
#include "runtime/ngram_proposer.h"

namespace metal_marlin {
namespace {

constexpr int kMostGuessed = 64;
// Of an account: what a step without a guess adds, so that guesses are tried again, and cost no more than this in all;
// what it can hold, so that gains of before do not pay long for losses.
constexpr double kAllowance = 0.01;
constexpr double kMostSaved = 4;
constexpr double kNewestToken = 0.1;       // weight of the newest token in a share
constexpr double kShareForgotten = 0.002;  // of what a share is away from what is expected, with a step without a guess

}  // namespace

void validate(const SpeculationOptions& options, const Model& model) {
  if (options.tokens < 1 || options.tokens > kMostGuessed) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("speculation: tokens is {}, expected 1 to {}", options.tokens, kMostGuessed));
  }
  if (options.ngram && options.draft)
    throw Error(ErrorCode::kInvalidArgument, "speculation: there are both ngram and a draft model, expected one");
  if (options.mtp && (options.ngram || options.draft))
    throw Error(ErrorCode::kInvalidArgument, "speculation: there are both mtp and another way to guess, expected one");
  if (options.mtp) MtpProposer::require_prediction(model);
  if (options.draft) DraftProposer::require_same_vocabulary(*options.draft, model);
}

std::unique_ptr<Proposer> make_proposer(const SpeculationOptions& options, const Model& model, int sequences,
                                        std::int64_t cache_tokens, int step_tokens) {
  validate(options, model);
  if (options.ngram) return std::make_unique<NgramProposer>();
  if (options.mtp) return std::make_unique<MtpProposer>(model, sequences, cache_tokens, step_tokens);
  return std::make_unique<DraftProposer>(options.draft, model.info().vocab, sequences, cache_tokens, step_tokens);
}

// ---- one sequence -----------------------------------------------------------

void Speculation::Sequence::clear() {
  step_.clear();
  checked_ = 0;
  accepted_ = 0;
}

bool Speculation::Sequence::check(Sample& sample, std::span<const float> logits) {
  if (!is_open_) return false;
  try {
    const TokenId id = sample.draw_and_take(logits);
    ++checked_;
    is_open_ = checked_ <= guessed() && id == step_[static_cast<std::size_t>(checked_)];
  } catch (const Error& error) {
    is_open_ = false;
    sample.fail(error);
    return false;
  }
  accepted_ += is_open_ ? 1 : 0;
  is_open_ = is_open_ && !sample.has_ended();
  return true;
}

// ---- all of a step ----------------------------------------------------------

Speculation::Speculation(const SpeculationOptions& options, std::unique_ptr<Proposer> proposer)
    : options_(options), proposer_(std::move(proposer)) {
  stats_.accepted_at.resize(static_cast<std::size_t>(options.tokens));
}

std::unique_ptr<Speculation::Sequence> Speculation::begin() {
  auto out = std::make_unique<Sequence>();
  out->proposer_ = proposer_->begin();
  out->accepted_share_.assign(proposer_->expected().begin(), proposer_->expected().end());
  return out;
}

// As many of each as make tokens come fastest: those that are the likeliest to be right first, each after those before
// it in its guess.
void Speculation::choose(std::span<Offer> offers, int decoding, int room) const {
  // What a step costs that is larger than any before is found out in small steps.
  if (options_.adapt) room = std::min(room, 2 * std::max(times_.largest(), decoding) - decoding);
  std::vector<std::pair<double, std::size_t>> tokens;  // how likely each is right, and whose it is
  for (std::size_t i = 0; i < offers.size(); ++i) {
    double right = 1;
    for (int j = 0; j < offers[i].most; ++j) {
      right *= offers[i].share;
      tokens.emplace_back(right, i);
    }
  }
  std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(std::max(room, 0))));
  std::size_t best = options_.adapt ? 0 : tokens.size();
  double drawn = decoding;
  double most = drawn / times_.seconds(decoding);
  for (std::size_t i = 0; options_.adapt && i < tokens.size(); ++i) {
    drawn += tokens[i].first;
    const auto guessed = static_cast<int>(i) + 1;
    const double speed = drawn / (times_.seconds(decoding + guessed) + guessed * guess_seconds_);
    if (speed <= most) continue;
    most = speed;
    best = i + 1;
  }
  for (std::size_t i = 0; i < best; ++i) ++offers[tokens[i].second].chosen;
}

void Speculation::propose(std::span<const Request> requests, int decoding, int room) {
  std::vector<Proposer::Request> asked;
  std::vector<Sequence*> sequences;
  std::vector<Offer> offers;
  last_guess_seconds_ = 0;
  for (const Request& request : requests) {
    Sequence& sequence = *request.sequence;
    sequence.clear();
    const int most = std::min(request.most, options_.tokens);
    if (most <= 0 || sequence.account_ < 0 || (options_.adapt && !times_.knows(decoding))) continue;
    sequences.push_back(&sequence);
    asked.push_back({sequence.proposer_.get(), request.tokens, most, request.sampler});
    offers.push_back({sequence.accepted_share_[0], most});
  }
  if (!proposer_->is_free()) {
    choose(offers, decoding, room);
    for (std::size_t i = 0; i < asked.size(); ++i) asked[i].most = offers[i].chosen;
  }
  const auto start = std::chrono::steady_clock::now();
  proposer_->propose(asked);
  last_guess_seconds_ = seconds_since(start);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto kind = static_cast<std::size_t>(asked[i].kind);
    offers[i] = {sequences[i]->accepted_share_[kind], static_cast<int>(asked[i].guess.size())};
  }
  choose(offers, decoding, room);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    if (offers[i].chosen == 0) continue;
    Sequence& sequence = *sequences[i];
    sequence.step_.push_back(asked[i].tokens.back());
    sequence.step_.insert(sequence.step_.end(), asked[i].guess.begin(), asked[i].guess.begin() + offers[i].chosen);
    sequence.kind_ = asked[i].kind;
    sequence.is_open_ = true;
  }
}

void Speculation::count(Sequence& sequence) {
  const int accepted = sequence.accepted_;
  ++stats_.drafts;
  stats_.draft_tokens += sequence.guessed();
  stats_.accepted_tokens += accepted;
  for (int i = 0; i < accepted; ++i) ++stats_.accepted_at[static_cast<std::size_t>(i)];
  double& share = sequence.accepted_share_[static_cast<std::size_t>(sequence.kind_)];
  for (int i = 0; i < accepted; ++i) share += kNewestToken * (1 - share);
  if (accepted < sequence.guessed() && accepted < sequence.checked_) share -= kNewestToken * share;
}

void Speculation::record(std::span<Sequence* const> sequences, int decoding, double seconds) {
  int guessed = 0;
  for (const Sequence* const each : sequences) guessed += each->guessed();
  const double without = times_.seconds(decoding);
  if (seconds > 0) times_.record(decoding + guessed, seconds);
  if (guessed > 0 && !proposer_->is_free()) {
    const double each = last_guess_seconds_ / guessed;
    guess_seconds_ += (guess_seconds_ == 0 ? 1 : kNewestToken) * (each - guess_seconds_);
  } else {
    guess_seconds_ -= kShareForgotten * guess_seconds_;
  }
  // A token's worth is its part of a step without guesses.
  const double lost = seconds > 0 && without > 0 ? (seconds + last_guess_seconds_ - without) * decoding / without : 0;
  for (Sequence* const each : sequences) {
    if (each->guessed() > 0) {
      count(*each);
      if (options_.adapt) each->account_ += each->accepted_ - lost * each->guessed() / guessed;
    } else {
      each->account_ += kAllowance;
      for (std::size_t i = 0; i < each->accepted_share_.size(); ++i)
        each->accepted_share_[i] += kShareForgotten * (proposer_->expected()[i] - each->accepted_share_[i]);
    }
    each->account_ = std::min(each->account_, kMostSaved);
    each->clear();
  }
}

}  // namespace metal_marlin

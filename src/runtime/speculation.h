// Guesses for the sequences of a step: how many, and what became of them. What guesses is a Proposer.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/engine_sample.h"
#include "runtime/proposer.h"
#include "runtime/step_times.h"

namespace metal_marlin {

// A step has a sequence's last token and its guess behind it, and gives logits after each. From the first of them the
// sequence's sampler draws what follows; if that is what was guessed, from the second what follows that, and so on.
// Each token is thus drawn as if it were alone, by the same random number, which is rejection sampling of a guess that
// is certain: it is accepted with the probability that the model gives it, and what is drawn in its place is
// distributed as the rest. What was drawn is never taken back; of the cache the rest is cut.
class Speculation {
 public:
  class Sequence {
   public:
    // What a step has of it: its last token, and the guess; empty: there is no guess.
    [[nodiscard]] std::span<const TokenId> step() const { return step_; }
    [[nodiscard]] int guessed() const { return step_.empty() ? 0 : static_cast<int>(step_.size()) - 1; }
    void clear();
    // Draws from the logits behind the next of the step's tokens, unless one before was guessed wrong or the sample
    // ended. An error of its grammar is the sample's end. \returns whether a token was drawn.
    bool check(Sample& sample, std::span<const float> logits);
    // The step's tokens that are the sequence's.
    [[nodiscard]] int checked() const { return checked_; }
    // No guess for a while: the step failed, which may be the guess's fault.
    void distrust() { account_ = -1; }

   private:
    friend class Speculation;
    std::unique_ptr<Proposer::Sequence> proposer_;
    std::vector<TokenId> step_;
    int kind_ = 0;
    int checked_ = 0;
    int accepted_ = 0;
    bool is_open_ = false;  // what was guessed so far was right
    // What guesses gained, in tokens of a step without; none are made while it is negative.
    double account_ = 1;
    std::vector<double> accepted_share_;  // of tokens of a kind
  };
  struct Request {
    Sequence* sequence;
    std::span<const TokenId> tokens;
    int most;  // tokens that may be guessed
    const Sampler* sampler;
  };

  Speculation(const SpeculationOptions& options, std::unique_ptr<Proposer> proposer);

  [[nodiscard]] std::unique_ptr<Sequence> begin();
  // Guesses for the next step, `room` tokens at most, where `decoding` sequences get their next token in it.
  void propose(std::span<const Request> requests, int decoding, int room);
  // Whether see() is to be called after each step, and its session to show hidden states.
  [[nodiscard]] bool wants_hidden() const { return proposer_->wants_hidden(); }
  // Hidden states that a step computed of a sequence's tokens from `begin` on, those of wrong guesses cut off. Before
  // record().
  void see(Sequence& sequence, std::span<const TokenId> tokens, std::int64_t begin, std::span<const float> rows) {
    proposer_->see(*sequence.proposer_, tokens, begin, rows);
  }
  // The step was run. seconds: 0 where it had something else in it too.
  void record(std::span<Sequence* const> sequences, int decoding, double seconds);
  [[nodiscard]] const SpeculationStats& stats() const { return stats_; }

 private:
  // Tokens of a sequence's guess that a step may have.
  struct Offer {
    double share;  // of them are right
    int most;
    int chosen = 0;
  };
  void choose(std::span<Offer> offers, int decoding, int room) const;
  void count(Sequence& sequence);

  SpeculationOptions options_;
  std::unique_ptr<Proposer> proposer_;
  StepTimes times_;
  double guess_seconds_ = 0;       // for a token, where guesses are not free
  double last_guess_seconds_ = 0;  // for the step's
  SpeculationStats stats_;
};

}  // namespace metal_marlin

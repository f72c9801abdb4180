// What guesses the tokens that follow those of a sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "metal_marlin/sampler.h"
#include "metal_marlin/speculation.h"

namespace metal_marlin {

// By look-up (ngram_proposer.h), by a second model (draft_proposer.h), by a layer that the model has for it
// (mtp_proposer.h).
class Proposer {
 public:
  // What it knows of one sequence.
  class Sequence {
   public:
    Sequence() = default;
    virtual ~Sequence() = default;
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;
  };
  struct Request {
    Sequence* sequence = nullptr;
    std::span<const TokenId> tokens;   // all; those of the last time, and others behind them
    int most = 0;                      // to guess
    const Sampler* sampler = nullptr;  // draws what follows
    std::vector<TokenId> guess = {};   // out
    int kind = 0;                      // out: guesses of one kind are right as often as each other
  };

  Proposer() = default;
  virtual ~Proposer() = default;
  Proposer(const Proposer&) = delete;
  Proposer& operator=(const Proposer&) = delete;

  [[nodiscard]] virtual std::unique_ptr<Sequence> begin() = 0;
  virtual void propose(std::span<Request> requests) = 0;
  // Whether it goes by the hidden states that steps compute.
  [[nodiscard]] virtual bool wants_hidden() const { return false; }
  // Those of a sequence's tokens from `begin` on, a row each, which are its own: guesses that were wrong have none.
  virtual void see(Sequence& /*sequence*/, std::span<const TokenId> /*tokens*/, std::int64_t /*begin*/,
                   std::span<const float> /*rows*/) {}
  // Of each kind: how often a token is expected to be right before any was tried.
  [[nodiscard]] virtual std::span<const double> expected() const = 0;
  // Whether a guess takes next to no time, so that what is not used of it is no loss.
  [[nodiscard]] virtual bool is_free() const = 0;
};

// \param sequences at a time, of cache_tokens tokens together; step_tokens: most in one of its steps
// \throws Error as validate().
std::unique_ptr<Proposer> make_proposer(const SpeculationOptions& options, const Model& model, int sequences,
                                        std::int64_t cache_tokens, int step_tokens);

}  // namespace metal_marlin

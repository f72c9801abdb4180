/// \file
/// Guessing the tokens that follow, so that one step checks several. docs/speculation.md says how.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "metal_marlin/model.h"

namespace metal_marlin {

/// Each token is drawn from the model's own distribution whatever was guessed, so that the same seed gives the same
/// answer with and without: to the bit on the cpu backend.
struct SpeculationOptions {
  /// Guess what came after the last tokens where they stood before, in the prompt or the answer.
  bool ngram = false;
  /// Guess what this model draws: a smaller one of the same vocabulary. Not together with `ngram`.
  std::shared_ptr<const Model> draft;
  /// Guess by the model's own layer for the next tokens, run again for each: of a model that was loaded with
  /// LoadOptions::prediction. Not together with the others.
  bool mtp = false;
  /// Most tokens of a guess, 1 to 64.
  int tokens = 8;
  /// Guess as many as pay, by how often guesses were right and by how long steps took; none while that is a loss.
  /// False: as many as there are.
  bool adapt = true;

  [[nodiscard]] bool any() const { return ngram || mtp || draft != nullptr; }
};

struct SpeculationStats {
  std::int64_t drafts = 0;                ///< guesses, each of some tokens
  std::int64_t draft_tokens = 0;          ///< of all guesses
  std::int64_t accepted_tokens = 0;       ///< of these, that were drawn
  std::vector<std::int64_t> accepted_at;  ///< by their place in the guess
};

/// \throws Error (kInvalidArgument) naming the option, or both models where their vocabularies differ.
void validate(const SpeculationOptions& options, const Model& model);

}  // namespace metal_marlin

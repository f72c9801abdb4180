// Guesses by the layer that a model has for the next tokens.
#pragma once

#include "runtime/proposer.h"

namespace metal_marlin {

// The layer reads the model's hidden state of a token and the token that follows it, and says what comes after that;
// for a longer guess it reads its own hidden state and its guess. It has a cache of its own, a place for each such
// pair, in step with the tokens that are the sequence's. Hidden states of what the model's cache had already (a prefix
// that was found, a sequence that was swapped in) were not computed here: of those, the layer sees what its own cache
// still has, and the others are left out of what it attends to. Guesses may be worse for it, which is counted as any
// other. Tokens are drawn as DraftProposer draws them.
class MtpProposer : public Proposer {
 public:
  // As make_proposer().
  MtpProposer(const Model& model, int sequences, std::int64_t cache_tokens, int step_tokens);
  ~MtpProposer() override;
  [[nodiscard]] std::unique_ptr<Sequence> begin() override;
  void propose(std::span<Request> requests) override;
  [[nodiscard]] bool wants_hidden() const override { return true; }
  void see(Sequence& sequence, std::span<const TokenId> tokens, std::int64_t begin,
           std::span<const float> rows) override;
  [[nodiscard]] std::span<const double> expected() const override;
  [[nodiscard]] bool is_free() const override { return false; }

  // \throws Error (kInvalidArgument) where the model has no such layer, or it was not loaded.
  static void require_prediction(const Model& model);

 private:
  struct Predicted;
  struct Drafting;
  [[nodiscard]] SessionOptions session_options(int sequences, std::int64_t cache_tokens, int step_tokens);
  void keep_up(Predicted& sequence, std::span<const TokenId> tokens);
  void draw(std::vector<Drafting*>& in);

  std::shared_ptr<const Model> layer_;
  std::size_t width_;         // of a hidden state
  std::vector<float> shown_;  // a row for each input of the step, its last
  Session session_;
};

}  // namespace metal_marlin

// Guesses by a second, smaller model.
#pragma once

#include "runtime/proposer.h"

namespace metal_marlin {

// Draws with a copy of the sequence's sampler, from the same random numbers: where both models agree on a distribution
// they draw the same token, at any temperature.
class DraftProposer : public Proposer {
 public:
  // As make_proposer(). \param vocabulary of the model that it guesses for; what is beyond is never guessed
  DraftProposer(std::shared_ptr<const Model> draft, std::int64_t vocabulary, int sequences, std::int64_t cache_tokens,
                int step_tokens);
  ~DraftProposer() override;
  [[nodiscard]] std::unique_ptr<Sequence> begin() override;
  void propose(std::span<Request> requests) override;
  [[nodiscard]] std::span<const double> expected() const override;
  [[nodiscard]] bool is_free() const override { return false; }

  // \throws Error (kInvalidArgument) naming both, where their tokens are not the same ones.
  static void require_same_vocabulary(const Model& draft, const Model& model);

 private:
  struct Drafting;
  bool catch_up(Drafting& drafting);
  void draw(std::vector<Drafting*>& in);

  std::shared_ptr<const Model> draft_;
  std::int64_t vocabulary_;
  int step_tokens_;
  Session session_;
};

}  // namespace metal_marlin

// Inputs whose hidden states are computed together and pooled as they come.
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "metal_marlin/embed.h"

namespace metal_marlin {

// \throws Error (kInvalidArgument) naming what is wrong with an input, with the form of its vector or the adapter.
void check_embedding(std::span<const std::vector<TokenId>> inputs, const EmbeddingForm& form, std::size_t skipped,
                     const std::string& adapter, const ModelInfo& model, std::int64_t context);

// Tokens at the beginning of a text that are its prompt's, with what the tokenizer puts before it.
std::size_t prompt_tokens(const Tokenizer& tokenizer, const std::string& prompt);

// An input on its way. The tokens must outlive it.
struct EmbeddingItem {
  std::span<const TokenId> tokens;
  EmbeddingForm form;
  std::size_t skipped = 0;
  std::string adapter{};
  // What became of it.
  std::size_t done = 0;  // tokens
  std::vector<float> vector{};
  std::vector<double> sum{};
  SequenceId sequence = -1;

  [[nodiscard]] bool is_ready() const { return done == tokens.size(); }
};

class EmbeddingBatch {
 public:
  // longest: tokens of an input.
  EmbeddingBatch(const std::shared_ptr<const Model>& model, std::int64_t longest, int step_tokens);

  // Lets it in where there is a place, and pages for all of it: what is let in comes to its end.
  bool admit(EmbeddingItem& item);
  // Gives its place to others, whether it is ready or not.
  void leave(EmbeddingItem& item);
  // Computes at most so many tokens of those that were let in, the first ones first; of those that become ready the
  // vector is there. \returns the tokens that it computed.
  std::int64_t step(std::span<EmbeddingItem* const> items, int tokens);

 private:
  void take(EmbeddingItem& item, std::size_t token, std::span<const float> row) const;

  int step_tokens_;
  std::size_t width_;
  Session session_;
  std::int64_t promised_pages_ = 0;  // to those that were let in
};

}  // namespace metal_marlin

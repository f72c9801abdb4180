/// \file
/// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

/// Applied in this order: biases, penalties (each once for a token, however often it was),
/// temperature, top-k, typical, top-p, min-p.
struct SamplerOptions {
  float temperature = 0;        ///< 0: always the largest logit
  int top_k = 0;                ///< keep the k likeliest; 0: all
  float typical_p = 1;          ///< keep those nearest to the mean surprise whose sum reaches p (arXiv 2202.00666)
  float top_p = 1;              ///< keep the likeliest whose sum reaches p (arXiv 1904.09751)
  float min_p = 0;              ///< keep those at least min_p times the likeliest left (arXiv 2407.01082)
  float repeat_penalty = 1;     ///< divides positive, multiplies negative logits (arXiv 1909.05858)
  float frequency_penalty = 0;  ///< taken from logits, times how often the token was generated
  float presence_penalty = 0;   ///< taken from the logits of tokens that were generated
  std::uint64_t seed = 0;
  std::vector<std::pair<TokenId, float>> logit_bias;  ///< added to logits; each token once
};

/// \throws Error (kInvalidArgument) naming the option.
void validate(const SamplerOptions& options);

/// A token that was, and how often it was generated; 0: only in the prompt.
struct SeenToken {
  TokenId id;
  int count;
};

/// Reproducible: the same seed and logits give the same tokens, whatever the
/// number of threads. Ties go to the lower id. A draw is the first id at which the sum of probabilities, in the
/// order of ids, passes a random number.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);
  /// Counts a token that was generated.
  void accept(TokenId id) { see(id, 1); }
  /// A token of the prompt: of the penalties only the one for repetition is for it.
  void accept_prompt(TokenId id) { see(id, 0); }
  /// Picks a token and counts it.
  TokenId sample(std::span<const float> logits);
  /// The probability with which sample() would pick each token, [vocabulary].
  [[nodiscard]] std::vector<float> distribution(std::span<const float> logits);

  /// Tokens that are not picked until the next call, which replaces them.
  void forbid(std::vector<TokenId> ids) { forbidden_ = std::move(ids); }

  /// Only tokens whose bit is set are picked, until the next call, which replaces them; empty: all are. A bit a token,
  /// 64 a word; the bits are not copied.
  void allow(std::span<const std::uint64_t> mask) { allowed_ = mask; }

  // What sample() is made of, for those who do the same elsewhere.
  [[nodiscard]] const SamplerOptions& options() const { return options_; }
  /// The next random number of [0, 1); a token takes one where the temperature is not zero.
  [[nodiscard]] double next_uniform();
  /// The tokens that are penalized, each once.
  [[nodiscard]] std::span<const SeenToken> seen() const { return seen_; }
  /// Whether there are biases, or tokens that may not be picked: what only sample() itself knows of.
  [[nodiscard]] bool must_see_logits() const {
    return !options_.logit_bias.empty() || !forbidden_.empty() || !allowed_.empty();
  }

 private:
  struct Candidate {
    TokenId id;
    float weight;
  };
  void see(TokenId id, int times);
  void start(std::span<const float> logits);
  void fill(std::span<const float> logits);
  TokenId restrict_candidates(std::span<const float> logits);
  void sort_until(std::size_t begin, std::size_t end);
  void keep_top_k();
  void keep_typical();
  void keep_sum(float p);
  void keep_min_p();
  TokenId draw();

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<SeenToken> seen_;
  std::vector<TokenId> forbidden_;
  std::span<const std::uint64_t> allowed_;
  std::vector<std::size_t> places_;  // by id: 1 + its index there; 0: was never
  std::vector<Candidate> candidates_;
};

}  // namespace metal_marlin

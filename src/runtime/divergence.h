// How far two rows of logits are apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

namespace metal_marlin {

inline double log_sum_exp(std::span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - top));
  return static_cast<double>(top) + std::log(sum);
}

// Kullback-Leibler divergence in nats of the softmax of `logits` from that of `reference`, whose
// log_sum_exp are given.
inline double kl_divergence(std::span<const float> reference, double reference_normalizer,
                            std::span<const float> logits, double normalizer) {
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double log_p = static_cast<double>(reference[i]) - reference_normalizer;
    sum += std::exp(log_p) * (log_p - (static_cast<double>(logits[i]) - normalizer));
  }
  return sum;
}

}  // namespace metal_marlin

// One head's answer to one query, by a softmax in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace metal_marlin::msl {

struct AnswerParams {
  std::size_t key_dim;
  std::size_t value_dim;
  double scale;         // of scores
  double soft_cap = 0;  // 0: none
};

struct Answer {
  std::vector<double> out;
  std::vector<double> size;  // of what `out` is a sum of
  double score_size = 0;     // likewise, the largest
};

// From keys [begin, end) and their values; a sink takes a share of the weights.
inline Answer answer(const AnswerParams& p, const std::vector<double>& q, const std::vector<float>& keys,
                     const std::vector<float>& values, std::size_t begin, std::size_t end,
                     const float* sink = nullptr) {
  Answer found;
  std::vector<double> scores(end - begin);
  double top = sink != nullptr ? *sink : -INFINITY;
  for (std::size_t i = begin; i < end; ++i) {
    double product = 0;
    double size = 0;
    for (std::size_t e = 0; e < p.key_dim; ++e) {
      product += q[e] * keys[i * p.key_dim + e];
      size += std::fabs(q[e] * keys[i * p.key_dim + e]) * p.scale;
    }
    found.score_size = std::max(found.score_size, size);
    product *= p.scale;
    if (p.soft_cap != 0) product = p.soft_cap * std::tanh(product / p.soft_cap);
    scores[i - begin] = product;
    top = std::max(top, product);
  }
  double total = sink != nullptr ? std::exp(*sink - top) : 0;
  found.out.resize(p.value_dim);
  found.size.resize(p.value_dim);
  for (std::size_t i = begin; i < end; ++i) {
    const double weight = std::exp(scores[i - begin] - top);
    total += weight;
    for (std::size_t e = 0; e < p.value_dim; ++e) {
      found.out[e] += weight * values[i * p.value_dim + e];
      found.size[e] += std::fabs(weight * values[i * p.value_dim + e]);
    }
  }
  for (double& v : found.out) v /= total;
  for (double& v : found.size) v /= total;
  return found;
}

}  // namespace metal_marlin::msl

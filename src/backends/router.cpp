#include "backends/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace metal_marlin {
namespace {

constexpr float kChosen = -std::numeric_limits<float>::infinity();

// The best of scores [begin, end), ties to the lower index.
std::int64_t best(const float* scores, std::int64_t begin, std::int64_t end) {
  std::int64_t at = begin;
  for (std::int64_t i = begin + 1; i < end; ++i) {
    if (scores[i] > scores[at]) at = i;
  }
  return at;
}

// Strikes out the groups that no expert may come from. scratch: [2 groups]
void limit_groups(const MoeOp& op, float* corrected, float* scratch) {
  const std::int64_t size = op.experts / op.groups;
  float* const sums = scratch;
  float* const kept = scratch + op.groups;
  std::fill(kept, kept + op.groups, 0.0F);
  for (std::int64_t g = 0; g < op.groups; ++g) {
    float first = kChosen;
    float second = kChosen;
    for (std::int64_t i = g * size; i < (g + 1) * size; ++i) {
      if (corrected[i] > first) {
        second = first;
        first = corrected[i];
      } else if (corrected[i] > second) {
        second = corrected[i];
      }
    }
    sums[g] = op.group_best == 1 ? first : first + second;
  }
  for (std::int64_t i = 0; i < op.top_groups; ++i) {
    const std::int64_t g = best(sums, 0, op.groups);
    kept[g] = 1;
    sums[g] = kChosen;
  }
  for (std::int64_t g = 0; g < op.groups; ++g) {
    if (kept[g] == 0) std::fill(corrected + g * size, corrected + (g + 1) * size, kChosen);
  }
}

// What each score is divided from: the softmax' largest logit and sum.
struct Softmax {
  float top = 0;
  float sum = 1;
};

Softmax softmax_of(const MoeOp& op, const float* logits) {
  Softmax out;
  out.top = *std::max_element(logits, logits + op.experts);
  out.sum = 0;
  for (std::int64_t i = 0; i < op.experts; ++i) out.sum += std::exp(logits[i] - out.top);
  return out;
}

}  // namespace

std::int64_t route_scratch_floats(const MoeOp& op) {
  return op.experts + 2 * op.groups;
}

void route_token(const MoeOp& op, const float* logits, const float* router_bias, float* scratch, std::int32_t* experts,
                 float* weights) {
  const bool softmax = op.scoring == RouterScoring::kSoftmax;
  const Softmax parts = softmax ? softmax_of(op, logits) : Softmax{};
  const auto score = [&](std::int64_t i) {
    return softmax ? std::exp(logits[i] - parts.top) / parts.sum : 1 / (1 + std::exp(-logits[i]));
  };
  for (std::int64_t i = 0; i < op.experts; ++i)
    scratch[i] = score(i) + (router_bias == nullptr ? 0.0F : router_bias[i]);
  if (op.groups > 1) limit_groups(op, scratch, scratch + op.experts);
  float sum = 0;
  for (std::int64_t j = 0; j < op.top_k; ++j) {
    const std::int64_t expert = best(scratch, 0, op.experts);
    scratch[expert] = kChosen;
    experts[j] = static_cast<std::int32_t>(expert);
    weights[j] = score(expert);
    sum += weights[j];
  }
  const float factor = op.normalize ? op.scale / (sum + 1e-20F) : op.scale;
  for (std::int64_t j = 0; j < op.top_k; ++j) weights[j] *= factor;
}

}  // namespace metal_marlin

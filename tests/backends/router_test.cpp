// The router's choice on this processor against its definition in double precision.
#include "backends/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace metal_marlin {
namespace {

struct Choice {
  std::vector<std::int32_t> experts;
  std::vector<double> weights;
};

Choice reference(const MoeOp& op, const std::vector<float>& logits, const std::vector<float>& bias) {
  const auto experts = static_cast<std::size_t>(op.experts);
  std::vector<double> scores(experts);
  double sum = 0;
  for (std::size_t i = 0; i < experts; ++i) sum += std::exp(static_cast<double>(logits[i]));
  for (std::size_t i = 0; i < experts; ++i) {
    scores[i] = op.scoring == RouterScoring::kSoftmax ? std::exp(static_cast<double>(logits[i])) / sum
                                                      : 1 / (1 + std::exp(-static_cast<double>(logits[i])));
  }
  std::vector<double> corrected = scores;
  for (std::size_t i = 0; i < bias.size(); ++i) corrected[i] += static_cast<double>(bias[i]);
  const auto size = static_cast<std::size_t>(op.experts / op.groups);
  const auto order_by = [](const std::vector<double>& values) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    return order;
  };
  if (op.groups > 1) {
    std::vector<double> best;
    for (std::size_t g = 0; g < static_cast<std::size_t>(op.groups); ++g) {
      const auto begin = corrected.begin() + static_cast<std::ptrdiff_t>(g * size);
      std::vector<double> group(begin, begin + static_cast<std::ptrdiff_t>(size));
      std::sort(group.rbegin(), group.rend());
      best.push_back(op.group_best == 1 ? group[0] : group[0] + group[1]);
    }
    const auto order = order_by(best);
    for (std::size_t i = static_cast<std::size_t>(op.top_groups); i < order.size(); ++i)
      std::fill_n(corrected.begin() + static_cast<std::ptrdiff_t>(order[i] * size), size, -INFINITY);
  }
  const auto order = order_by(corrected);
  Choice choice;
  double total = 0;
  for (std::size_t j = 0; j < static_cast<std::size_t>(op.top_k); ++j) {
    choice.experts.push_back(static_cast<std::int32_t>(order[j]));
    choice.weights.push_back(scores[order[j]]);
    total += choice.weights.back();
  }
  for (double& weight : choice.weights) weight *= static_cast<double>(op.scale) / (op.normalize ? total : 1);
  return choice;
}

TEST(Router, RouterChoosesByDefinition) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    for (const auto& [experts, top_k, groups, top_groups] :
         {std::tuple{1, 1, 1, 1}, std::tuple{7, 7, 1, 1}, std::tuple{64, 4, 1, 1}, std::tuple{256, 8, 8, 4},
          std::tuple{12, 3, 4, 2}, std::tuple{12, 3, 12, 4}, std::tuple{1024, 32, 1, 1}}) {
      for (const bool normalize : {false, true}) {
        MoeOp op{0, 0, 0, "", "", experts, top_k, 0, groups, top_groups, scoring, normalize, 1.8F};
        op.group_best = normalize && experts > groups ? 2 : 1;
        std::vector<float> logits(static_cast<std::size_t>(experts));
        std::vector<float> bias(logits.size());
        for (float& x : logits) x = normal(random);
        for (float& x : bias) x = 0.2F * normal(random);
        for (const bool corrected : {false, true}) {
          std::vector<float> scratch(static_cast<std::size_t>(route_scratch_floats(op)));
          std::vector<std::int32_t> found(static_cast<std::size_t>(top_k));
          std::vector<float> weights(found.size());
          route_token(op, logits.data(), corrected ? bias.data() : nullptr, scratch.data(), found.data(),
                      weights.data());
          const Choice expected = reference(op, logits, corrected ? bias : std::vector<float>{});
          EXPECT_EQ(found, expected.experts);
          // exp, the sum of the scores and the quotient: a few roundings each.
          for (std::size_t j = 0; j < found.size(); ++j)
            EXPECT_NEAR(weights[j], expected.weights[j], expected.weights[j] * 64 * 0x1p-24);
        }
      }
    }
  }
}

TEST(Router, TiesGoToTheLowerIndex) {
  const MoeOp op{0, 0, 0, "", "", 8, 3, 0, 1, 1, RouterScoring::kSigmoid, true, 1};
  const std::vector<float> logits{0, 1, 0, 1, 1, 1, 0, 2};
  std::vector<float> scratch(static_cast<std::size_t>(route_scratch_floats(op)));
  std::vector<std::int32_t> experts(3);
  std::vector<float> weights(3);
  route_token(op, logits.data(), nullptr, scratch.data(), experts.data(), weights.data());
  EXPECT_EQ(experts, (std::vector<std::int32_t>{7, 1, 3}));
}

}  // namespace
}  // namespace metal_marlin

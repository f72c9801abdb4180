// The choice of experts on every executor against a sort in double.
#include "backends/msl/moe_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class MoeRouter : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, MoeRouter, testing::ValuesIn(executors()), executor_name);

struct Choice {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
};

std::vector<std::size_t> by_value(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  return order;
}

Choice expected_choice(const RouterOptions& o, std::vector<double> logits, const std::vector<float>* bias,
                       const std::vector<float>* expert_scales) {
  for (double& v : logits) v = std::isnan(v) ? -INFINITY : v;
  const double top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> scores;
  for (const double v : logits) scores.push_back(o.sigmoid ? 1 / (1 + std::exp(-v)) : v == top ? 1 : std::exp(v - top));
  if (!o.sigmoid) {
    const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& v : scores) v /= total;
  }
  std::vector<double> choice = scores;
  for (std::size_t e = 0; bias != nullptr && e < choice.size(); ++e) choice[e] += (*bias)[e];
  if (o.groups > 1) {
    const std::size_t size = o.experts / o.groups;
    std::vector<double> groups;
    for (std::size_t g = 0; g < o.groups; ++g) {
      std::vector<double> members(choice.begin() + static_cast<std::ptrdiff_t>(g * size),
                                  choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
      std::sort(members.rbegin(), members.rend());
      groups.push_back(o.group_best == 2 ? members[0] + members[1] : members[0]);
    }
    const std::vector<std::size_t> order = by_value(groups);
    for (std::size_t g = o.group_limit; g < o.groups; ++g) {
      for (std::size_t e = order[g] * size; e < (order[g] + 1) * size; ++e) choice[e] = -INFINITY;
    }
  }
  Choice out;
  double sum = 0;
  const std::vector<std::size_t> order = by_value(choice);
  for (std::size_t n = 0; n < o.chosen; ++n) {
    out.ids.push_back(static_cast<std::int32_t>(order[n]));
    out.weights.push_back(scores[order[n]]);
    sum += scores[order[n]];
  }
  for (std::size_t n = 0; n < o.chosen; ++n) {
    double& w = out.weights[n];
    w = (o.normalize ? w / (sum + 1e-20) : w) * o.scale;
    if (expert_scales != nullptr) w *= (*expert_scales)[order[n]];
  }
  return out;
}

void check(Device& device, const RouterOptions& o, const std::vector<float>& logits, const std::vector<float>* bias,
           const std::vector<float>* expert_scales = nullptr) {
  const std::size_t tokens = logits.size() / o.experts;
  const auto l = device.allocate_with(logits);
  const auto b = device.allocate_with(bias != nullptr ? *bias : std::vector<float>(1));
  const auto s = device.allocate_with(expert_scales != nullptr ? *expert_scales : std::vector<float>(1));
  const auto ids = device.allocate(tokens * o.chosen * sizeof(std::int32_t));
  const auto weights = device.allocate(tokens * o.chosen * sizeof(float));
  const auto commands = device.commands();
  encode_moe_router(device, *commands, o, static_cast<std::int64_t>(tokens), *l,
                    {bias != nullptr ? b.get() : nullptr, expert_scales != nullptr ? s.get() : nullptr}, *ids,
                    *weights);
  commands->commit();
  commands->wait();
  std::vector<std::int32_t> found_ids(tokens * o.chosen);
  std::vector<float> found_weights(tokens * o.chosen);
  ids->download(std::as_writable_bytes(std::span(found_ids)));
  weights->download(std::as_writable_bytes(std::span(found_weights)));
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(t * o.experts);
    const Choice expected = expected_choice(o, {row, row + o.experts}, bias, expert_scales);
    for (std::size_t n = 0; n < o.chosen; ++n) {
      ASSERT_EQ(found_ids[t * o.chosen + n], expected.ids[n])
          << "experts " << o.experts << " groups " << o.groups << " token " << t << " choice " << n;
      ASSERT_NEAR(found_weights[t * o.chosen + n], expected.weights[n], 2e-6 * o.scale);
    }
  }
}

// Logits on a grid of 1/16, so that f32 and double agree on what is equal: ties are common.
std::vector<float> gridded(std::size_t n, unsigned seed) {
  auto values = normal_data(n, seed, 3);
  for (float& v : values) v = std::round(v * 16) / 16;
  return values;
}

TEST_P(MoeRouter, SoftmaxOfAnyCount) {
  for (const auto& [experts, chosen] : {std::pair(1U, 1U), std::pair(8U, 2U), std::pair(60U, 4U), std::pair(128U, 8U),
                                        std::pair(257U, 32U), std::pair(1024U, 9U)}) {
    RouterOptions o;
    o.experts = experts;
    o.chosen = chosen;
    check(*device, o, gridded(5 * experts, experts), nullptr);
    o.normalize = false;
    o.scale = 2.5F;
    check(*device, o, gridded(5 * experts, experts + 1), nullptr);
  }
}

TEST_P(MoeRouter, SigmoidWithBiasAndGroups) {
  for (const auto& [groups, limit, best] :
       {std::tuple(1U, 1U, 2U), std::tuple(8U, 4U, 2U), std::tuple(4U, 1U, 1U), std::tuple(32U, 5U, 2U)}) {
    RouterOptions o;
    o.experts = 64;
    o.chosen = std::min(6U, 64 / groups * limit);
    o.groups = groups;
    o.group_limit = limit;
    o.group_best = best;
    o.sigmoid = true;
    o.scale = 1.8F;
    auto bias = gridded(64, 3);
    check(*device, o, normal_data(std::size_t{9} * 64, 4), &bias);
    check(*device, o, normal_data(std::size_t{9} * 64, 5), nullptr);
  }
}

TEST_P(MoeRouter, FactorsOfExperts) {
  for (const bool sigmoid : {false, true}) {
    RouterOptions o;
    o.experts = 60;
    o.chosen = 4;
    o.sigmoid = sigmoid;
    o.scale = 1.3F;
    auto bias = gridded(60, 3);
    const auto scales = normal_data(60, 6);
    check(*device, o, normal_data(std::size_t{9} * 60, 7), sigmoid ? &bias : nullptr, &scales);
  }
}

TEST_P(MoeRouter, NanAndInfinity) {
  RouterOptions o;
  o.experts = 40;
  o.chosen = 3;
  auto logits = gridded(3 * 40, 8);
  logits[3] = std::nanf("");
  logits[40 + 7] = INFINITY;
  logits[40 + 33] = INFINITY;
  for (std::size_t e = 0; e < 39; ++e) logits[80 + e] = std::nanf("");  // but for one
  check(*device, o, logits, nullptr);
  o.sigmoid = true;
  check(*device, o, logits, nullptr);
}

TEST_P(MoeRouter, RefusesWhatItCannotDo) {
  const auto buffer = device->allocate(4096 * 4);
  const auto commands = device->commands();
  const auto encode = [&](const RouterOptions& o) {
    encode_moe_router(*device, *commands, o, 1, *buffer, {}, *buffer, *buffer);
  };
  EXPECT_THROW(encode({1025, 1}), Error);
  EXPECT_THROW(encode({64, 33}), Error);
  EXPECT_THROW(encode({64, 0}), Error);
  EXPECT_THROW(encode({64, 2, 7}), Error);
  EXPECT_THROW(encode({64, 9, 8, 1}), Error);  // more than a group has
  EXPECT_THROW(encode({64, 2, 64, 2}), Error);
  EXPECT_THROW(encode({64, 2, 8, 9}), Error);
}

}  // namespace
}  // namespace metal_marlin::msl

#include "metal_marlin/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "test_data.h"

namespace metal_marlin {
namespace {

const std::vector<float> kLogits{1.0F, 3.0F, 2.0F, -1.0F, 2.5F, 0.0F, 3.0F};

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : logits) sum += p.emplace_back(std::exp(x / temperature));
  for (double& x : p) x /= sum;
  return p;
}

// Draws many tokens and compares their counts with the expected distribution:
// chi-square below its 0.9999 quantile (Wilson-Hilferty), seeds being fixed.
void expect_distribution(SamplerOptions options, std::vector<double> expected) {
  double total = 0;
  for (const double p : expected) total += p;
  constexpr int kDraws = 40000;
  std::vector<int> counts(expected.size());
  options.seed = 5;
  Sampler sampler(options);
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<std::size_t>(sampler.sample(kLogits))];
  double chi_square = 0;
  int freedom = -1;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double mean = kDraws * expected[i] / total;
    if (mean == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    ++freedom;
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
  }
  const double f = std::max(freedom, 1);
  const double bound = f * std::pow(1 - 2 / (9 * f) + 3.72 * std::sqrt(2 / (9 * f)), 3);
  EXPECT_LT(chi_square, bound);
}

TEST(Sampler, ZeroTemperatureTakesTheLargestAndTheLowerIdOnTies) {
  Sampler sampler({});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sampler.sample(kLogits), 1);
}

TEST(Sampler, PenaltiesCountEachTokenOnce) {
  SamplerOptions options;
  options.temperature = 1;
  options.repeat_penalty = 1.5F;
  options.frequency_penalty = 0.25F;
  options.presence_penalty = 0.5F;
  Sampler sampler(options);
  for (const TokenId id : {2, 1, 2}) sampler.accept_prompt(id);  // which only the repetition penalty is for
  for (const TokenId id : {1, 3, 1, 1}) sampler.accept(id);
  std::vector<float> penalized = kLogits;
  penalized[1] = 3.0F / 1.5F - 3 * 0.25F - 0.5F;
  penalized[3] = -1.0F * 1.5F - 0.25F - 0.5F;
  penalized[2] = kLogits[2] > 0 ? kLogits[2] / 1.5F : kLogits[2] * 1.5F;
  const std::vector<double> expected = softmax(penalized, 1);
  const std::vector<float> found = sampler.distribution(kLogits);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6);
}

TEST(Sampler, PicksOnlyWhatIsAllowed) {
  const std::vector<std::uint64_t> mask{0b0101001};  // 0, 3 and 5
  SamplerOptions options;
  options.repeat_penalty = 2;
  options.logit_bias = {{1, 50.0F}, {3, 10.0F}};
  Sampler greedy(options);
  greedy.allow(mask);
  EXPECT_TRUE(greedy.must_see_logits());
  EXPECT_EQ(greedy.sample(kLogits), 3);
  options.temperature = 1;
  options.top_p = 0.99F;
  Sampler sampled(options);
  sampled.accept(2);
  sampled.allow(mask);
  const std::vector<float> p = sampled.distribution(kLogits);
  EXPECT_EQ(p[1] + p[2] + p[4] + p[6], 0.0F);
  EXPECT_GT(p[3], p[0]);
  sampled.allow({});
  EXPECT_GT(sampled.distribution(kLogits)[1], 0.9F);
}

TEST(Sampler, TypicalKeepsThoseNearestToTheMeanSurprise) {
  SamplerOptions options;
  options.temperature = 1;
  options.typical_p = 0.6F;
  const std::vector<double> p = softmax(kLogits, 1);
  double entropy = 0;
  for (const double x : p) entropy -= x * std::log(x);
  std::vector<std::size_t> order{0, 1, 2, 3, 4, 5, 6};
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::fabs(-std::log(p[a]) - entropy) < std::fabs(-std::log(p[b]) - entropy) - 1e-12;
  });
  std::vector<double> expected(p.size());
  double sum = 0;
  for (std::size_t i = 0; sum < 0.6; ++i) sum += expected[order[i]] = p[order[i]];
  const std::vector<float> found = Sampler(options).distribution(kLogits);
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(found[i], expected[i] / sum, 1e-6) << i;
  expect_distribution(options, expected);
}

TEST(Sampler, TemperatureGivesTheSoftmax) {
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    SamplerOptions options;
    options.temperature = temperature;
    expect_distribution(options, softmax(kLogits, temperature));
  }
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  SamplerOptions options;
  options.temperature = 1;
  options.top_k = 3;
  auto p = softmax(kLogits, 1);
  for (const std::size_t dropped : {0U, 2U, 3U, 5U}) p[dropped] = 0;
  expect_distribution(options, p);
  options.top_k = 1;
  expect_distribution(options, {0, 1, 0, 0, 0, 0, 0});
  options.top_k = 100;
  expect_distribution(options, softmax(kLogits, 1));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesP) {
  SamplerOptions options;
  options.temperature = 1;
  options.top_p = 0.75F;  // 0.31 + 0.31 + 0.19 = 0.81
  auto p = softmax(kLogits, 1);
  ASSERT_LT(p[1] + p[6], 0.75);
  for (const std::size_t dropped : {0U, 2U, 3U, 5U}) p[dropped] = 0;
  expect_distribution(options, p);
  options.top_p = 0.01F;
  expect_distribution(options, {0, 1, 0, 0, 0, 0, 0});
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  SamplerOptions options;
  options.temperature = 1;
  options.min_p = 0.3F;  // e^-1 = 0.37 stays, e^-2 goes
  auto p = softmax(kLogits, 1);
  for (const std::size_t dropped : {0U, 3U, 5U}) p[dropped] = 0;
  expect_distribution(options, p);
}

TEST(Sampler, PenaltyCountsEachTokenOnce) {
  SamplerOptions options;
  options.repeat_penalty = 2;
  Sampler sampler(options);
  for (int i = 0; i < 3; ++i) sampler.accept(1);
  sampler.accept(6);
  EXPECT_EQ(sampler.sample(kLogits), 4);  // 3 -> 1.5, once; 2.5 is next
  EXPECT_EQ(sampler.sample(kLogits), 2);
  EXPECT_EQ(sampler.sample(kLogits), 1);  // 1.5 against 2.5/2 and 2/2
}

// Whatever was sorted on the way: the number falls on the same token as in the distribution, from the lowest id on.
TEST(Sampler, DrawsGoByTheOrderOfIds) {
  for (int kind = 0; kind < 4; ++kind) {
    SamplerOptions options;
    options.temperature = 1.5F;
    options.seed = 9;
    if (kind == 1) options.top_k = 5;
    if (kind == 2) options.typical_p = 0.9F;
    if (kind == 3) options.top_p = 0.95F;
    Sampler sampler(options);
    Sampler other(options);
    const std::vector<float> distribution = other.distribution(kLogits);
    for (int i = 0; i < 100; ++i) {
      const double uniform = other.next_uniform();
      std::size_t expected = 0;
      for (double sum = distribution[0]; sum <= uniform; sum += distribution[expected]) ++expected;
      EXPECT_EQ(sampler.sample(kLogits), static_cast<TokenId>(expected)) << "kind " << kind << " draw " << i;
    }
  }
}

TEST(Sampler, TellsWhatItHasSeen) {
  SamplerOptions options;
  options.presence_penalty = 1;
  Sampler sampler(options);
  for (const TokenId id : {4, 2, 4, -1, 4}) sampler.accept(id);
  ASSERT_EQ(sampler.seen().size(), 2U);
  EXPECT_EQ(sampler.seen()[0].id, 4);
  EXPECT_EQ(sampler.seen()[0].count, 3);
  EXPECT_EQ(sampler.seen()[1].count, 1);
  sampler.accept_prompt(3);
  sampler.accept_prompt(2);
  EXPECT_EQ(sampler.seen()[1].count, 1);
  EXPECT_EQ(sampler.seen()[2].count, 0);
  Sampler without({});
  without.accept(4);
  EXPECT_TRUE(without.seen().empty());
}

TEST(Sampler, TheSeedDecides) {
  const auto draw = [](std::uint64_t seed) {
    SamplerOptions options;
    options.temperature = 1;
    options.seed = seed;
    Sampler sampler(options);
    std::vector<TokenId> out;
    for (int i = 0; i < 50; ++i) out.push_back(sampler.sample(kLogits));
    return out;
  };
  EXPECT_EQ(draw(3), draw(3));
  EXPECT_NE(draw(3), draw(4));
}

TEST(Sampler, BiasesCountBeforePenalties) {
  SamplerOptions options;
  options.logit_bias = {{3, 5.0F}, {1, -10.0F}, {100, 50.0F}};  // the last is beyond the vocabulary
  Sampler sampler(options);
  EXPECT_TRUE(sampler.must_see_logits());
  EXPECT_EQ(sampler.sample(kLogits), 3);
  options.repeat_penalty = 2;
  Sampler penalized(options);
  penalized.accept(3);
  EXPECT_EQ(penalized.sample(kLogits), 6);  // (5 - 1) / 2 is less than 3
}

TEST(Sampler, ForbiddenTokensAreNotPicked) {
  SamplerOptions options;
  EXPECT_FALSE(Sampler(options).must_see_logits());
  for (const float temperature : {0.0F, 1.0F}) {
    options.temperature = temperature;
    Sampler sampler(options);
    sampler.forbid({1, 6, 4});
    EXPECT_TRUE(sampler.must_see_logits());
    const std::vector<float> p = sampler.distribution(kLogits);
    for (const std::size_t id : {1U, 6U, 4U}) EXPECT_EQ(p[id], 0);
    EXPECT_EQ(std::max_element(p.begin(), p.end()) - p.begin(), 2);
    sampler.forbid({});
    EXPECT_FALSE(sampler.must_see_logits());
    EXPECT_GT(sampler.distribution(kLogits)[1], 0);
  }
}

TEST(Sampler, BadOptionsAreNamed) {
  const auto with = [](auto change) {
    SamplerOptions options;
    change(options);
    validate(options);
  };
  expect_error(ErrorCode::kInvalidArgument, "top-p is 0", [&] { with([](SamplerOptions& o) { o.top_p = 0; }); });
  expect_error(ErrorCode::kInvalidArgument, "temperature is -1",
               [&] { with([](SamplerOptions& o) { o.temperature = -1; }); });
  expect_error(ErrorCode::kInvalidArgument, "min-p is 2", [&] { with([](SamplerOptions& o) { o.min_p = 2; }); });
  expect_error(ErrorCode::kInvalidArgument, "repeat-penalty is 0",
               [&] { with([](SamplerOptions& o) { o.repeat_penalty = 0; }); });
  expect_error(ErrorCode::kInvalidArgument, "logit-bias: a token is -3", [&] {
    with([](SamplerOptions& o) { o.logit_bias = {{-3, 1.0F}}; });
  });
  expect_error(ErrorCode::kInvalidArgument, "logit-bias is inf, expected a finite number", [&] {
    with([](SamplerOptions& o) { o.logit_bias = {{3, INFINITY}}; });
  });
  expect_error(ErrorCode::kInvalidArgument, "logit-bias: a token is 3, expected each token once", [&] {
    with([](SamplerOptions& o) { o.logit_bias = {{3, 1.0F}, {4, 1.0F}, {3, 1.0F}}; });
  });
}

}  // namespace
}  // namespace metal_marlin

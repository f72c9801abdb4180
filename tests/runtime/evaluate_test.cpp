#include "metal_marlin/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(Evaluate, PerplexityFollowsItsDefinition) {
  const SafetensorsFile golden(test_data("fixtures/llama-tiny") / "golden.safetensors");
  const auto ids64 = read_tensor<std::int64_t>(golden, "input_ids");
  const auto logits = read_tensor<float>(golden, "logits");
  const std::vector<TokenId> ids(ids64.begin(), ids64.end());
  const std::size_t vocab = logits.size() / ids.size();
  LoadOptions load;
  load.exact = true;
  const auto model = Model::load(test_data("fixtures/llama-tiny"), load);
  const auto nll = [&](std::size_t position) {  // of the token after it
    double sum = 0;
    const float* const row = logits.data() + position * vocab;
    for (std::size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(row[i]));
    return std::log(sum) - row[static_cast<std::size_t>(ids[position + 1])];
  };
  EvaluateOptions options;
  options.context = 96;
  const Evaluation half = evaluate(model, ids, options);
  double sum = 0;
  for (std::size_t i = 48; i < 95; ++i) sum += nll(i);
  EXPECT_EQ(half.scored_tokens, 47);
  EXPECT_NEAR(half.nll, sum / 47, 1e-5);
  std::vector<TokenId> changed = ids;
  changed[0] = 9;
  const double with_nine = evaluate(model, changed, options).nll;
  options.first_token = 9;
  EXPECT_EQ(evaluate(model, ids, options).nll, with_nine);
  EXPECT_NE(with_nine, half.nll);
  options.stride = 96;
  const Evaluation all = evaluate(model, ids, options);
  sum = 0;
  for (std::size_t i = 0; i < 95; ++i) sum += nll(i);
  EXPECT_EQ(all.scored_tokens, 95);
  EXPECT_NEAR(all.nll, sum / 95, 1e-5);
  options.stride = 20;
  options.context = 40;
  EXPECT_EQ(evaluate(model, ids, options).scored_tokens, 95);
}

TEST(Evaluate, AModelDoesNotDivergeFromItself) {
  const auto model = Model::load(test_data("fixtures/qwen3-tiny"));
  std::vector<TokenId> ids;
  for (int i = 0; i < 200; ++i) ids.push_back((i * 37) % 500);
  EvaluateOptions options;
  options.context = 64;
  options.reference = model;
  const Evaluation same = evaluate(model, ids, options);
  EXPECT_NEAR(same.divergence->mean_kl, 0, 1e-9);
  EXPECT_EQ(same.divergence->top1_agreement, 1);
  EXPECT_EQ(same.windows, 3);
  options.reference = Model::load(test_data("fixtures/llama-tiny"));
  expect_error(ErrorCode::kInvalidArgument, "vocabulary of 384, the model of 512",
               [&] { evaluate(model, ids, options); });
}

TEST(Evaluate, TheReferencesLogitsAreKeptForTheNextTime) {
  const auto model = Model::load(test_data("fixtures/qwen3-tiny"));
  LoadOptions exact;
  exact.exact = true;
  std::vector<TokenId> ids;
  for (int i = 0; i < 100; ++i) ids.push_back((i * 37) % 500);
  const TemporaryFolder folder;
  EvaluateOptions options;
  options.context = 32;
  options.reference = Model::load(test_data("fixtures/qwen3-tiny"), exact);
  options.reference_cache = folder.path() / "logits";
  EXPECT_FALSE(reference_is_cached(options));
  const Evaluation first = evaluate(model, ids, options);
  EXPECT_GT(first.divergence->mean_kl, 0);
  EXPECT_TRUE(reference_is_cached(options));
  options.reference.reset();
  const Evaluation second = evaluate(model, ids, options);
  EXPECT_EQ(second.divergence->mean_kl, first.divergence->mean_kl);
  EXPECT_EQ(second.divergence->reference_perplexity, first.divergence->reference_perplexity);
  options.context = 16;
  expect_error(ErrorCode::kInvalidArgument, "holds logits for", [&] { evaluate(model, ids, options); });
}

TEST(Evaluate, TextsAndWindowsHaveALeastLength) {
  const auto model = Model::load(test_data("fixtures/llama-tiny"));
  const std::vector<TokenId> ids(20, 1);
  EvaluateOptions options;
  options.context = 21;
  expect_error(ErrorCode::kInvalidArgument, "the text has 20 tokens, too few for a context of 21",
               [&] { evaluate(model, ids, options); });
  options.context = 1;
  expect_error(ErrorCode::kInvalidArgument, "context is 1, expected at least 2",
               [&] { evaluate(model, ids, options); });
  options.context = 10;
  options.progress = [](std::int64_t done, std::int64_t) { return done < 1; };
  expect_error(ErrorCode::kCancelled, "was cancelled", [&] { evaluate(model, ids, options); });
}

}  // namespace
}  // namespace metal_marlin

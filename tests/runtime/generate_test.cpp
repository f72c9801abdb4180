#include "metal_marlin/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "test_data.h"

namespace metal_marlin {
namespace {

std::shared_ptr<const Model> llama() {
  LoadOptions options;
  options.exact = true;
  options.threads = 2;
  return Model::load(test_data("fixtures/llama-tiny"), options);
}

// A prompt of several steps, with a penalty that counts its tokens: the same as
// sampling from the logits of the whole.
TEST(Generate, LongPromptsAreCutWithoutATrace) {
  const auto model = llama();
  std::vector<TokenId> prompt(1100);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 37 % 380);
  GenerateOptions options;
  options.max_tokens = 1;
  options.ignore_end = true;
  options.sampler.temperature = 0.8F;
  options.sampler.repeat_penalty = 1.3F;
  options.sampler.seed = 11;
  Sampler sampler(options.sampler);
  for (const TokenId id : prompt) sampler.accept_prompt(id);
  TokenId expected = -1;
  Session session(model);
  session.step(std::array{SequenceInput{session.open(), prompt}},
               [&](std::span<const LogitsRow> rows) { expected = sampler.sample(rows.back().values); });
  const GenerateResult result = generate(model, prompt, options);
  EXPECT_EQ(result.tokens, std::vector<TokenId>{expected});
  EXPECT_EQ(result.prompt_tokens, 1100U);
  EXPECT_EQ(result.reason, StopReason::kLength);
}

TEST(Generate, CanBeCancelledByTheCallback) {
  GenerateOptions options;
  options.max_tokens = 50;
  options.ignore_end = true;
  int calls = 0;
  const auto result =
      generate(llama(), std::vector<TokenId>{1, 2, 3}, options, [&](std::string_view) { return ++calls < 5; });
  EXPECT_EQ(result.reason, StopReason::kCancelled);
  EXPECT_LT(result.tokens.size(), 7U);
}

TEST(Generate, EndsAtAnEndToken) {
  const auto model = llama();
  GenerateOptions options;
  options.max_tokens = 40;
  options.ignore_end = true;
  options.sampler.temperature = 0;
  const std::vector<TokenId> prompt{1, 2, 3};
  const std::vector<TokenId> all = generate(model, prompt, options).tokens;
  ASSERT_EQ(all.size(), 40U);
  // As far as it goes on without an end token.
  const auto& ends = model->info().end_tokens;
  const auto end = std::find_first_of(all.begin(), all.end(), ends.begin(), ends.end());
  options.ignore_end = false;
  const GenerateResult result = generate(model, prompt, options);
  EXPECT_EQ(result.tokens, std::vector<TokenId>(all.begin(), end));
  EXPECT_EQ(result.reason, end == all.end() ? StopReason::kLength : StopReason::kEndToken);
}

TEST(Generate, AnEmptyPromptIsAnError) {
  expect_error(ErrorCode::kInvalidArgument, "the prompt has no tokens", [] { generate(llama(), {}, {}); });
}

}  // namespace
}  // namespace metal_marlin

// Guesses by a model's own layer for the next tokens: that answers stay the same, and that its cache keeps in step.
#include <gtest/gtest.h>

#include "engine_testing.h"
#include "metal_marlin/generate.h"
#include "models/prediction_states.h"

namespace metal_marlin {
namespace {

const char* const kFixture = "fixtures/glm4-mtp";

std::shared_ptr<const Model> mtp_model(const std::string& cache = "") {
  LoadOptions options;
  options.exact = cache.empty();
  options.kv_cache = cache;
  options.threads = 1;
  options.prediction = true;
  return Model::load(test_data(kFixture), options);
}

SpeculationOptions mtp(int tokens) {
  SpeculationOptions out;
  out.mtp = true;
  out.tokens = tokens;
  out.adapt = false;
  return out;
}

GenerateOptions generation(int count, float temperature, std::uint64_t seed) {
  GenerateOptions out;
  out.max_tokens = count;
  out.ignore_end = true;
  out.sampler.temperature = temperature;
  out.sampler.seed = seed;
  return out;
}

TEST(MtpProposer, AnswersAreTheSameForEverySeed) {
  for (const char* const cache : {"", "f16", "int4"}) {
    const auto model = mtp_model(cache);
    Engine engine(model, small(700, 1, 700));  // computes in the order that checks of guesses have
    std::int64_t accepted = 0;
    for (const float temperature : {0.0F, 0.5F, 1.0F}) {
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        // Prompts of one token, of a few, and of more than a step takes.
        const std::vector<TokenId> prompt = random_prompt(std::array{1, 9, 40, 600}[seed], 5);
        GenerateOptions options = generation(70, temperature, seed);
        if (seed == 2) options.sampler.repeat_penalty = 1.2F;
        EngineRequest request = request_of(prompt, options.max_tokens);
        request.sampler = options.sampler;
        const std::vector<TokenId> expected = run(engine, request).tokens;
        for (const int tokens : {1, 3, 8}) {
          options.speculation = mtp(tokens);
          const GenerateResult found = generate(model, prompt, options);
          EXPECT_EQ(found.tokens, expected) << cache << ", " << temperature << ", " << seed << ", " << tokens;
          EXPECT_GT(found.speculation.draft_tokens, 20);
          accepted += found.speculation.accepted_tokens;
        }
      }
    }
    EXPECT_GT(accepted, 200) << cache;
  }
}

// Guesses are what the layer says when it sees the whole text at once.
TEST(MtpProposer, ItsCacheKeepsInStep) {
  const auto model = mtp_model();
  const auto vocab = static_cast<std::size_t>(model->info().vocab);
  for (const std::size_t size : {std::size_t{2}, std::size_t{33}, std::size_t{530}}) {
    const std::vector<TokenId> prompt = random_prompt(size, 11);
    GenerateOptions options = generation(60, 0, 1);
    options.speculation = mtp(1);
    const GenerateResult result = generate(model, prompt, options);
    std::vector<TokenId> text = prompt;
    text.insert(text.end(), result.tokens.begin(), result.tokens.end());
    const PredictionStates layer = prediction_states(test_data(kFixture), text);
    // Each step guesses one token behind the last, and brings two where it is right.
    std::int64_t guessed = 0;
    std::int64_t right = 0;
    for (std::size_t last = size; last + 1 < text.size();) {
      if (last + 2 == text.size()) break;  // the last token of all is not guessed
      ++guessed;
      const bool is_right = layer.likeliest(last - 1, vocab) == text[last + 1];
      right += is_right ? 1 : 0;
      last += is_right ? 2 : 1;
    }
    EXPECT_EQ(result.speculation.draft_tokens, guessed) << size;
    EXPECT_EQ(result.speculation.accepted_tokens, right) << size;
    EXPECT_GT(right, 5) << size;
  }
}

// Requests side by side, in a cache that is too small for all, with samples that share a prompt and prefixes that are
// found again.
TEST(MtpProposer, AnswersOfAnEngineAreTheSame) {
  const auto model = mtp_model();
  std::vector<EngineRequest> requests;
  for (std::uint32_t i = 0; i < 9; ++i) {
    std::vector<TokenId> prompt = random_prompt(70, i / 3);  // three have a beginning in common
    const std::vector<TokenId> more = random_prompt(5 + 20 * (i % 3), 50 + i);
    prompt.insert(prompt.end(), more.begin(), more.end());
    requests.push_back(request_of(std::move(prompt), 40));
    requests.back().samples = i % 4 == 0 ? 3 : 1;
    requests.back().sampler.temperature = i % 2 == 0 ? 0.6F : 0.0F;
    requests.back().sampler.seed = i;
    requests.back().priority = static_cast<int>(8 - i) / 3;
  }
  const auto answers = [&](const SpeculationOptions& speculation, bool swaps) {
    EngineOptions options = small(200, 4, 320);
    options.speculation = speculation;
    options.swap_bytes = swaps ? std::size_t{1} << 20 : 0;
    const auto engine = swaps ? EngineWithFaults::swapping(model, options) : std::make_unique<Engine>(model, options);
    std::vector<Answers> pending;
    for (const EngineRequest& request : requests) pending.push_back(submit(*engine, request));
    std::vector<std::vector<TokenId>> out;
    for (const Answers& each : pending) {
      for (const Answer& answer : each.wait()) {
        EXPECT_FALSE(answer.error) << answer.error->what();
        out.push_back(answer.tokens);
      }
    }
    expect_all_given_back(*engine);
    return std::pair(std::move(out), engine->stats());
  };
  const auto [expected, plain] = answers({}, false);
  for (const bool swaps : {false, true}) {
    const auto [found, stats] = answers(mtp(4), swaps);
    EXPECT_EQ(found, expected);
    EXPECT_GT(stats.preemptions, 0);
    EXPECT_GT(stats.cached_tokens, 0);
    EXPECT_GT(stats.speculation.accepted_tokens, 50);
  }
}

TEST(MtpProposer, CancelledRequestsLeaveNothing) {
  const auto model = mtp_model();
  EngineOptions options = small(200, 3, 600);
  options.speculation = mtp(4);
  Engine engine(model, options);
  for (int round = 0; round < 6; ++round) {
    Answers answers(1);
    const RequestId id = engine.submit(request_of(random_prompt(80, 3), 100), answers.callback());
    const Answers other = submit(engine, request_of(random_prompt(30, 4), 30));
    answers.wait_for_tokens(static_cast<std::size_t>(1 + 5 * round));
    engine.cancel(id);
    EXPECT_EQ(other.wait().front().tokens.size(), 30U);
    EXPECT_TRUE(answers.wait().front().finished);
  }
  expect_all_given_back(engine);
}

TEST(MtpProposer, AModelWithoutTheLayerIsRefused) {
  SpeculationOptions both = mtp(2);
  both.ngram = true;
  const auto refused = [](const std::shared_ptr<const Model>& model, const std::string& text,
                          const SpeculationOptions& speculation) {
    GenerateOptions options = generation(4, 0, 1);
    options.speculation = speculation;
    expect_error(ErrorCode::kInvalidArgument, text, [&] { generate(model, random_prompt(3), options); });
    EngineOptions engine = small(64, 1, 64);
    engine.speculation = speculation;
    expect_error(ErrorCode::kInvalidArgument, text, [&] { Engine(model, engine); });
  };
  refused(fixture_model("glm4-mtp"), "glm4-mtp has no layers that predict the next tokens, or was loaded without",
          mtp(2));
  refused(fixture_model("llama-tiny"), "llama-tiny has no layers that predict", mtp(2));
  refused(mtp_model(), "both mtp and another way to guess", both);
}

}  // namespace
}  // namespace metal_marlin

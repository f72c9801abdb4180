// Grammars in generations and in requests of an engine.
#include "metal_marlin/grammar.h"

#include <gtest/gtest.h>

#include "engine_testing.h"

namespace metal_marlin {
namespace {

TEST(GenerateWithGrammar, GivesATextOfIt) {
  const WithTokenizer with;
  const auto grammar = Grammar::from_regex("(é|[a-c]{2})-\\d{3}");
  for (const float temperature : {0.0F, 1.0F, 3.0F}) {
    GenerateOptions options;
    options.max_tokens = 40;
    options.grammar = grammar;
    options.sampler.temperature = temperature;
    options.sampler.repeat_penalty = 1.5F;
    options.sampler.seed = 5;
    const GenerateResult result = generate(with.model, random_prompt(6), options);
    EXPECT_TRUE(grammar->matches(result.text)) << result.text;
    EXPECT_EQ(result.reason, StopReason::kEndToken);
  }
  GenerateOptions options;
  options.grammar = grammar;
  EXPECT_THROW(generate(fixture_model("llama-tiny"), random_prompt(6), options), Error);  // no tokenizer
}

TEST(EngineWithGrammar, GuidesItsRequestAlone) {
  const WithTokenizer with;
  const auto grammar = Grammar::from_json_schema(
      R"({"type":"object","properties":{"a":{"type":"integer","minimum":0,"maximum":999}},"required":["a"],
          "additionalProperties":false})",
      "s");
  EngineRequest free = request_of(random_prompt(9, 2), 30);
  free.sampler.temperature = 1;
  Engine alone(with.model, small(128, 4, 512));
  const Answer expected = run(alone, free);
  Engine engine(with.model, small(128, 4, 512));
  EngineRequest guided = request_of(random_prompt(7), 60);
  guided.grammar = grammar;
  guided.sampler.temperature = 2;
  guided.samples = 3;
  EngineRequest shown = guided;
  shown.logprobs = 1;
  const Answers first = submit(engine, guided);
  const Answers second = submit(engine, free);
  const Answers third = submit(engine, shown);
  for (const Answers* const answers : {&first, &third}) {
    for (const Answer& answer : answers->wait()) {
      EXPECT_TRUE(grammar->matches(answer.text)) << answer.text;
      EXPECT_EQ(answer.finished, StopReason::kEndToken);
    }
  }
  EXPECT_EQ(second.wait().front().tokens, expected.tokens);
  EXPECT_EQ(third.wait().front().tokens, first.wait().front().tokens);
  expect_all_given_back(engine);
}

// A token that is to end the answer, and is all that could go on.
TEST(EngineWithGrammar, AnEndThatIsNeededAsTextFailsItsRequestAlone) {
  const WithTokenizer with;
  Engine engine(with.model, small(128, 4, 512));
  EngineRequest request = request_of(random_prompt(7), 20);
  request.grammar = Grammar::from_choice(std::vector<std::string>{"ab"});
  request.stop_ids = {'b'};
  const Answers free = submit(engine, request_of(random_prompt(9), 10));
  const Answer answer = run(engine, request);
  ASSERT_TRUE(answer.error);
  EXPECT_EQ(answer.error->code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(free.wait().front().tokens.size(), 10U);
  expect_all_given_back(engine);
  Engine none(fixture_model("llama-tiny"), small(128, 4, 512));
  EXPECT_THROW(none.submit(request, [](const EngineEvent&) {}), Error);
}

}  // namespace
}  // namespace metal_marlin

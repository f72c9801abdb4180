// Engines whose cache lies in memory of a device: samples that lose their place keep what was computed.
#include <gtest/gtest.h>

#include <algorithm>

#include "backends/registry.h"
#include "engine_testing.h"

namespace metal_marlin {
namespace {

// Four that want the whole cache each, without a prefix cache that could help.
EngineOptions crowded(std::size_t swap_bytes) {
  EngineOptions options = small(256, 4, 256);
  options.prefix_cache = false;
  options.swap_bytes = swap_bytes;
  return options;
}

std::vector<Answer> run_crowd(Engine& engine) {
  std::vector<Answers> answers;
  for (std::uint32_t i = 0; i < 4; ++i) answers.push_back(submit(engine, request_of(random_prompt(60, i), 190)));
  std::vector<Answer> out;
  for (const Answers& each : answers) out.push_back(each.wait().front());
  expect_all_given_back(engine);
  return out;
}

TEST(EngineSwap, WhatWasComputedIsNotComputedAgain) {
  const auto model = fixture_model("llama-tiny");
  const auto swapping = EngineWithFaults::swapping(model, crowded(std::size_t{1} << 30));
  const std::vector<Answer> swapped = run_crowd(*swapping);
  const EngineStats stats = swapping->stats();
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(stats.swapped_out, stats.preemptions);
  EXPECT_EQ(stats.swapped_in, stats.preemptions);
  EXPECT_EQ(stats.prompt_tokens, 4 * 60);
  Engine plain(model, crowded(0));
  const std::vector<Answer> computed = run_crowd(plain);
  EXPECT_GT(plain.stats().prompt_tokens, 4 * 60);
  EXPECT_EQ(plain.stats().swapped_out, 0);
  for (std::size_t i = 0; i < swapped.size(); ++i) EXPECT_EQ(swapped[i].tokens, computed[i].tokens) << i;
}

TEST(EngineSwap, BeyondItsMemorySamplesAreComputedAgain) {
  const auto model = fixture_model("llama-tiny");
  const auto engine = EngineWithFaults::swapping(model, crowded(1));
  run_crowd(*engine);
  EXPECT_GT(engine->stats().preemptions, 0);
  EXPECT_EQ(engine->stats().swapped_out, 0);
  EXPECT_GT(engine->stats().prompt_tokens, 4 * 60);
}

TEST(EngineSwap, ACancelledOneGivesItsMemoryBack) {
  Pause pause(5);
  EngineOptions options = small(256, 1, 256);
  options.swap_bytes = std::size_t{1} << 30;
  const auto engine = EngineWithFaults::swapping(fixture_model("llama-tiny"), options, pause.hook());
  EngineRequest low = request_of(random_prompt(10), 100);
  low.priority = 5;
  const Answers answers(1);
  const RequestId id = engine->submit(low, answers.callback());
  pause.wait_until_there();
  const Answers urgent = submit(*engine, request_of(random_prompt(20, 2), 200));
  pause.end();
  urgent.wait_for_tokens(1);
  EXPECT_EQ(engine->stats().swapped, 1);
  EXPECT_GT(engine->stats().swapped_bytes, 0U);
  engine->cancel(id);
  EXPECT_EQ(answers.wait().front().finished, StopReason::kCancelled);
  EXPECT_EQ(urgent.wait().front().tokens.size(), 200U);
  EXPECT_EQ(engine->stats().swapped_out, 1);
  EXPECT_EQ(engine->stats().swapped_in, 0);
  expect_all_given_back(*engine);
}

// On every backend, those that have memory of their own among them.
struct SwapCase {
  std::string backend;
  std::string cache;
};

std::vector<SwapCase> swap_cases() {
  std::vector<SwapCase> out;
  for (const std::string& backend : available_backends()) {
    std::vector<const char*> caches{"f16", "fp4"};
    if (backend != "msl-host") caches.insert(caches.end(), {"f32", "fp8", "int8", "int4"});  // there steps take long
    for (const char* const cache : caches) out.push_back({backend, cache});
  }
  return out;
}

std::string case_name(const testing::TestParamInfo<SwapCase>& test) {
  std::string name = test.param.backend == "msl-cuda" ? "Cuda" : test.param.backend;
  std::replace(name.begin(), name.end(), '-', '_');
  return name + "_" + test.param.cache;
}

class SwapOnBackend : public testing::TestWithParam<SwapCase> {};
INSTANTIATE_TEST_SUITE_P(Backends, SwapOnBackend, testing::ValuesIn(swap_cases()), case_name);

// Alone in its steps before and after, so that these are of the same shapes as without the other.
TEST_P(SwapOnBackend, ASampleGoesOnToTheLastBit) {
  LoadOptions load;
  load.exact = true;
  load.threads = 1;
  load.backend = GetParam().backend;
  load.kv_cache = GetParam().cache;
  for (const char* const name : {"llama-tiny", "glm4-moe-lite-tiny"}) {
    const auto model = Model::load(test_data("fixtures") / name, load);
    EngineOptions options = small(128, 1, 128);
    options.prefix_cache = false;
    EngineRequest low = request_of(random_prompt(18), 9);
    low.priority = 5;
    low.logprobs = 2;
    Engine undisturbed(model, options);
    const Answer expected = run(undisturbed, low);
    Pause pause(5);
    options.swap_bytes = std::size_t{1} << 30;
    // A device's own memory is seen by the engine itself.
    const bool is_apart = GetParam().backend == "msl-cuda";
    const auto engine = is_apart ? EngineWithFaults::make(model, options, pause.hook())
                                 : EngineWithFaults::swapping(model, options, pause.hook());
    const Answers first = submit(*engine, low);
    pause.wait_until_there();
    const Answers second = submit(*engine, request_of(random_prompt(30, 2), 3));  // in the same pages
    pause.end();
    EXPECT_EQ(second.wait().front().tokens.size(), 3U);
    const Answer answer = first.wait().front();
    EXPECT_EQ(answer.usage.preemptions, 1);
    EXPECT_EQ(answer.tokens, expected.tokens) << name;
    EXPECT_TRUE(answer.logprobs == expected.logprobs) << name;
    EXPECT_EQ(engine->stats().swapped_out, 1);
    EXPECT_EQ(engine->stats().swapped_in, 1);
    expect_all_given_back(*engine);
  }
}

}  // namespace
}  // namespace metal_marlin

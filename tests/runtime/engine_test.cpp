// Engines: many requests at a time, each as it would be alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <future>
#include <random>
#include <thread>

#include "engine_testing.h"
#include "metal_marlin/generate.h"

namespace metal_marlin {
namespace {

TEST(Engine, AnswersAreThoseOfGenerate) {
  const WithTokenizer with;
  Engine engine(with.model, small(256, 4, 1024));
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    EngineRequest request = request_of(random_prompt(70, static_cast<std::uint32_t>(seed)), 40);
    request.sampler.temperature = 1;
    request.sampler.repeat_penalty = 1.1F;
    request.sampler.seed = seed;
    const Answer answer = run(engine, request);
    GenerateOptions options;
    options.max_tokens = 40;
    options.sampler = request.sampler;
    options.ignore_end = true;
    const GenerateResult expected = generate(with.model, request.prompt, options);
    EXPECT_EQ(answer.tokens, expected.tokens);
    EXPECT_EQ(answer.text, expected.text);
    EXPECT_EQ(answer.finished, StopReason::kLength);
    EXPECT_EQ(answer.usage.generated_tokens, 40);
    EXPECT_EQ(answer.usage.prompt_tokens, 70);
  }
  expect_all_given_back(engine);
}

// ---- the same alone and among others ----------------------------------------

// A request by a seed, all of whose options are used now and then.
EngineRequest random_request(std::uint32_t seed, bool has_text) {
  std::mt19937 random(seed);
  const auto below = [&](std::uint32_t n) { return static_cast<int>(random() % n); };
  const std::array lengths{1, 16, 17, 33, 90};
  EngineRequest out;
  out.prompt = random_prompt(
      static_cast<std::size_t>(below(2) == 0 ? lengths[static_cast<std::size_t>(below(5))] : 1 + below(100)),
      static_cast<std::uint32_t>(below(3)));
  if (below(3) != 0)
    out.max_tokens = 1 + below(static_cast<std::uint32_t>(std::min(40, 128 - static_cast<int>(out.prompt.size()))));
  out.sampler.temperature = below(3) == 0 ? 0.0F : 1.0F;
  out.sampler.top_p = below(2) == 0 ? 0.9F : 1.0F;
  out.sampler.frequency_penalty = below(4) == 0 ? 0.5F : 0.0F;
  out.sampler.seed = static_cast<std::uint64_t>(below(4));
  if (below(5) == 0) out.sampler.logit_bias = {{5, 3.0F}, {9, -100.0F}};
  if (below(4) == 0) out.min_tokens = std::min(out.max_tokens.value_or(28), 5);
  if (has_text && below(2) == 0) out.stop = {"e", std::string(1, static_cast<char>('a' + below(26)))};
  for (int i = below(30); i > 0; --i) out.stop_ids.push_back(below(256));
  out.samples = below(3) == 0 ? 1 + below(4) : 1;
  if (below(4) == 0) out.logprobs = below(4);
  out.prompt_logprobs = out.logprobs >= 0 && below(2) == 0;
  if (out.prompt_logprobs && out.samples == 1 && below(3) == 0) {
    out.max_tokens = 0;
    out.min_tokens = 0;
  }
  out.priority = below(3);
  out.fair_key = std::string(1, static_cast<char>('a' + below(4)));
  return out;
}

// cancelled: it may have ended anywhere.
void expect_same(const Answer& found, const Answer& alone, bool cancelled, int request) {
  ASSERT_FALSE(found.error) << found.error->what();
  if (cancelled && found.finished == StopReason::kCancelled) {
    ASSERT_LE(found.tokens.size(), alone.tokens.size());
    EXPECT_TRUE(std::equal(found.tokens.begin(), found.tokens.end(), alone.tokens.begin())) << "request " << request;
    EXPECT_TRUE(alone.text.starts_with(found.text)) << "request " << request;
    return;
  }
  EXPECT_EQ(found.tokens, alone.tokens) << "request " << request;
  EXPECT_EQ(found.text, alone.text) << "request " << request;
  EXPECT_EQ(found.finished, alone.finished) << "request " << request;
  EXPECT_TRUE(found.logprobs == alone.logprobs) << "request " << request;
  EXPECT_TRUE(found.prompt_logprobs == alone.prompt_logprobs) << "request " << request;
}

// METAL_MARLIN_TEST_STEPS: fewer, for slow builds.
int requests_to_run() {
  const char* const asked = std::getenv("METAL_MARLIN_TEST_STEPS");
  return asked == nullptr ? 200 : std::min(200, 5 * std::atoi(asked));
}

// How an engine differs from one that just runs requests.
struct Ways {
  std::optional<std::size_t> swap_bytes;  // of an engine that swaps
  SpeculationOptions speculation;
};

// Over a cache that holds one and a half of them, from several threads, some cancelled.
void expect_each_as_alone(const std::shared_ptr<const Model>& model, bool has_text, int count, const Ways& ways = {}) {
  EngineOptions options = small(128, 6, 192);
  options.speculation = ways.speculation;
  options.queue = count;
  // The first step waits for half of them, so that more are there than fit, however the threads are scheduled.
  std::atomic<int> submitted = 0;
  options.swap_bytes = ways.swap_bytes.value_or(0);
  const auto hold = [&] {
    while (submitted < count / 2) std::this_thread::yield();
  };
  const std::unique_ptr<Engine> held =
      ways.swap_bytes ? EngineWithFaults::swapping(model, options, hold) : EngineWithFaults::make(model, options, hold);
  Engine& engine = *held;
  EngineOptions one = small(128, 1, 128);
  one.prefix_cache = false;
  Engine lonely(model, one);
  std::vector<EngineRequest> requests;
  std::vector<Answers> answers;
  for (int i = 0; i < count; ++i) {
    requests.push_back(random_request(static_cast<std::uint32_t>(i), has_text));
    answers.emplace_back(requests.back().samples);
  }
  const auto is_cancelled = [](int i) { return i % 7 == 3; };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = thread; i < count; i += 3) {
        const auto at = static_cast<std::size_t>(i);
        const RequestId id = engine.submit(requests[at], answers[at].callback());
        ++submitted;
        if (!is_cancelled(i)) continue;
        std::this_thread::sleep_for(std::chrono::microseconds(i % 5 * 500));
        engine.cancel(id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::vector<Answer> found = answers[at].wait();
    EngineRequest alone = requests[at];
    alone.samples = 1;
    for (std::size_t sample = 0; sample < found.size(); ++sample) {
      alone.sampler.seed = requests[at].sampler.seed + sample;
      alone.prompt_logprobs = requests[at].prompt_logprobs && sample == 0;
      expect_same(found[sample], run(lonely, alone), is_cancelled(i), i);
    }
  }
  expect_all_given_back(engine);
  if (ways.speculation.any() && count > 2) {
    const SpeculationStats stats = engine.stats().speculation;
    EXPECT_GT(stats.accepted_tokens, 0);
    EXPECT_GT(stats.draft_tokens, stats.accepted_tokens);
  }
  if (count >= 100) {
    EXPECT_GT(engine.stats().preemptions, 0);
    EXPECT_GT(engine.stats().cached_tokens, 0);
    EXPECT_GT(engine.stats().cache.copied, 0);
    if (ways.swap_bytes) {
      EXPECT_GT(engine.stats().swapped_out, 0);  // those that were may all be cancelled
    }
  }
}

TEST(Engine, RandomRequestsOverASmallCacheAreAsAlone) {
  expect_each_as_alone(WithTokenizer().model, true, requests_to_run());
}

// Every kind of layer and of cache.
TEST(Engine, EveryModelAndCacheIsTheSameAsAlone) {
  const int count = std::max(2, requests_to_run() / 20);
  for (const char* const name : {"qwen3-tiny", "qwen3-window", "qwen3-moe", "glm4-moe-lite-tiny"})
    expect_each_as_alone(fixture_model(name), false, count);
  for (const char* const cache : {"f16", "fp8", "int8", "int4", "fp4"})
    expect_each_as_alone(fixture_model("llama-tiny", cache), false, count);
  expect_each_as_alone(fixture_model("glm4-moe-lite-tiny", "int8"), false, count);
}

TEST(Engine, SwappedRequestsAreAsAlone) {
  expect_each_as_alone(WithTokenizer().model, true, requests_to_run(),
                       {.swap_bytes = std::size_t{1} << 30, .speculation = {}});
  // Some of those that lose their place are copied back, others are computed again.
  expect_each_as_alone(WithTokenizer().model, true, requests_to_run() * 2 / 5,
                       {.swap_bytes = std::size_t{300} << 10, .speculation = {}});
}

TEST(Engine, SwappedRequestsOfEveryModelAndCacheAreAsAlone) {
  const int count = std::max(2, requests_to_run() / 20);
  for (const char* const name : {"qwen3-tiny", "qwen3-window", "qwen3-moe", "glm4-moe-lite-tiny"})
    expect_each_as_alone(fixture_model(name), false, count, {.swap_bytes = std::size_t{1} << 30, .speculation = {}});
  for (const char* const cache : {"f16", "fp8", "int8", "int4", "fp4"})
    expect_each_as_alone(fixture_model("llama-tiny", cache), false, count,
                         {.swap_bytes = std::size_t{1} << 30, .speculation = {}});
}

// A draft that is wrong now and then: the model itself, with a cache that rounds.
Ways guesses_of(const std::shared_ptr<const Model>& draft) {
  Ways out;
  out.speculation.draft = draft;
  out.speculation.tokens = 5;
  out.speculation.adapt = false;
  return out;
}

TEST(Engine, GuessesChangeNoAnswer) {
  const WithTokenizer with;
  Ways ngram;
  ngram.speculation.ngram = true;
  ngram.speculation.adapt = false;
  expect_each_as_alone(with.model, true, requests_to_run(), ngram);
  expect_each_as_alone(with.model, true, requests_to_run(), guesses_of(fixture_model("llama-tiny", "int4")));
}

TEST(Engine, GuessesChangeNoAnswerOfEveryModelAndCache) {
  const int count = std::max(2, requests_to_run() / 20);
  for (const char* const name : {"qwen3-tiny", "qwen3-window", "qwen3-moe", "glm4-moe-lite-tiny"})
    expect_each_as_alone(fixture_model(name), false, count, guesses_of(fixture_model(name, "int4")));
  for (const char* const cache : {"f16", "int8"})
    expect_each_as_alone(fixture_model("llama-tiny", cache), false, count,
                         guesses_of(fixture_model("llama-tiny", "fp4")));
}

TEST(Engine, IdenticalRequestsAtOnceShareWhatTheyCan) {
  Engine engine(fixture_model("llama-tiny"), small(128, 4, 512));
  EngineRequest request = request_of(random_prompt(70), 20);
  request.sampler.temperature = 1;
  const Answers first = submit(engine, request);
  const Answers second = submit(engine, request);
  EXPECT_EQ(first.wait().front().tokens, second.wait().front().tokens);
  const Answer third = run(engine, request);
  EXPECT_EQ(third.tokens, first.wait().front().tokens);
  EXPECT_EQ(third.usage.cached_tokens, 64);
  expect_all_given_back(engine);
}

TEST(Engine, SamplesShareThePromptsPages) {
  Engine engine(fixture_model("llama-tiny"), small(256, 4, 1024));
  EngineRequest request = request_of(random_prompt(200), 12);
  request.sampler.temperature = 1;
  request.samples = 4;
  const std::vector<Answer> answers = submit(engine, request).wait();
  const EngineStats stats = engine.stats();
  EXPECT_LT(stats.prompt_tokens, 200 + 8);  // not four times
  EXPECT_GE(stats.cache.copied, 3);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EngineRequest alone = request;
    alone.samples = 1;
    alone.sampler.seed = i;
    EXPECT_EQ(answers[i].tokens, run(engine, alone).tokens) << "sample " << i;
  }
  EXPECT_NE(answers[0].tokens, answers[1].tokens);
  expect_all_given_back(engine);
}

// ---- lengths ----------------------------------------------------------------

TEST(Engine, APromptMayFillTheCacheExactly) {
  Engine engine(fixture_model("llama-tiny"), small(64, 1, 64));
  const Answer answer = run(engine, request_of(random_prompt(63), 1));
  EXPECT_EQ(answer.tokens.size(), 1U);
  EngineRequest open = request_of(random_prompt(10), 1);
  open.max_tokens.reset();
  EXPECT_EQ(run(engine, open).tokens.size(), 54U);
  expect_error(ErrorCode::kInvalidArgument,
               "the prompt has 64 tokens, with 1 to generate that is 65; the context holds 64",
               [&] { submit(engine, request_of(random_prompt(64), 1)); });
  expect_error(ErrorCode::kInvalidArgument, "with 60 to generate that is 70",
               [&] { submit(engine, request_of(random_prompt(10), 60)); });
  expect_all_given_back(engine);
}

TEST(Engine, WrongRequestsAreNamed) {
  Engine engine(fixture_model("llama-tiny"), small(64, 2, 128));
  const auto expect_refused = [&](const std::string& text, const std::function<void(EngineRequest&)>& change) {
    EngineRequest request = request_of({1, 2}, 4);
    change(request);
    expect_error(ErrorCode::kInvalidArgument, text, [&] { submit(engine, request); });
  };
  expect_refused("the prompt has no tokens", [](EngineRequest& r) { r.prompt.clear(); });
  expect_refused("a token of the prompt is 384, expected a token of the vocabulary of 384",
                 [](EngineRequest& r) { r.prompt = {384}; });
  expect_refused("a token of stop_ids is -1", [](EngineRequest& r) { r.stop_ids = {-1}; });
  expect_refused("a token of logit_bias is 999", [](EngineRequest& r) { r.sampler.logit_bias = {{999, 1.0F}}; });
  expect_refused("logit-bias: a token is 7, expected each token once", [](EngineRequest& r) {
    r.sampler.logit_bias = {{7, 1.0F}, {7, 2.0F}};
  });
  expect_refused("max_tokens is 0", [](EngineRequest& r) { r.max_tokens = 0; });
  expect_refused("max_tokens is -1", [](EngineRequest& r) { r.max_tokens = -1; });
  expect_refused("min_tokens is 5, expected 0 to the 4", [](EngineRequest& r) { r.min_tokens = 5; });
  expect_refused("samples is 0", [](EngineRequest& r) { r.samples = 0; });
  expect_refused("logprobs is -2", [](EngineRequest& r) { r.logprobs = -2; });
  expect_refused("logprobs is -1, expected 0", [](EngineRequest& r) { r.prompt_logprobs = true; });
  expect_refused("top-p is 2", [](EngineRequest& r) { r.sampler.top_p = 2; });
  expect_refused("stop text's length is 0", [](EngineRequest& r) { r.stop = {""}; });
  expect_refused("no tokenizer", [](EngineRequest& r) { r.stop = {"x"}; });
  expect_all_given_back(engine);
}

TEST(Engine, AFullQueueRefuses) {
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  EngineOptions options = small(64, 1, 64);
  options.queue = 2;
  const auto engine = EngineWithFaults::make(fixture_model("llama-tiny"), options, [gone] { gone.wait(); });
  std::vector<Answers> taken;
  try {
    for (int i = 0; i < 10; ++i) taken.push_back(submit(*engine, request_of({1, 2}, 2)));
    ADD_FAILURE() << "none was refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBusy);
    EXPECT_STREQ(error.what(), "2 requests wait, the queue holds no more");
  }
  EXPECT_GE(taken.size(), 2U);
  EXPECT_EQ(engine->stats().refused, 1);
  go.set_value();
  for (const Answers& each : taken) EXPECT_EQ(each.wait().front().finished, StopReason::kLength);
  EXPECT_EQ(run(*engine, request_of({1, 2}, 2)).finished, StopReason::kLength);
  expect_all_given_back(*engine);
}

// ---- who goes first ---------------------------------------------------------

TEST(Engine, ALongPromptIsNotStarvedNorDoesItStarveOthers) {
  EngineOptions options = small(1024, 4, 1400);
  options.prompt_delay = 10s;  // pieces go by step_tokens, however slow the machine is
  Engine engine(fixture_model("llama-tiny"), options);
  std::atomic<bool> done = false;
  std::atomic<int> short_ones = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back([&, i] {
      while (!done) {
        EXPECT_EQ(run(engine, request_of(random_prompt(40, static_cast<std::uint32_t>(i)), 8)).tokens.size(), 8U);
        ++short_ones;
      }
    });
  }
  while (short_ones < 3) std::this_thread::yield();
  const Answer answer = run(engine, request_of(random_prompt(1000), 8));
  EXPECT_EQ(answer.tokens.size(), 8U);
  const int meanwhile = short_ones;
  done = true;
  for (std::thread& client : clients) client.join();
  EXPECT_GT(meanwhile, 3);
  expect_all_given_back(engine);
}

// Two that want the whole cache each: one waits for the other, and both end.
TEST(Engine, RequestsThatDoNotFitTogetherTakeTurns) {
  Engine engine(fixture_model("llama-tiny"), small(256, 4, 256));
  std::vector<Answers> answers;
  for (std::uint32_t i = 0; i < 4; ++i) answers.push_back(submit(engine, request_of(random_prompt(60, i), 190)));
  for (const Answers& each : answers) EXPECT_EQ(each.wait().front().tokens.size(), 190U);
  const EngineStats stats = engine.stats();
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_LT(stats.preemptions, 20);
  EXPECT_EQ(answers[0].wait().front().usage.preemptions, 0);  // who came first is never put off
  expect_all_given_back(engine);
}

TEST(Engine, AHigherPriorityTakesThePlaceOfALower) {
  Pause pause(5);
  const auto engine = EngineWithFaults::make(fixture_model("llama-tiny"), small(1024, 1, 1024), pause.hook());
  EngineRequest low = request_of(random_prompt(10), 100);
  low.priority = 5;
  const Answers first = submit(*engine, low);
  pause.wait_until_there();
  const Answers second = submit(*engine, request_of(random_prompt(20, 2), 3));
  pause.end();
  const Answer urgent = second.wait().front();
  EXPECT_EQ(urgent.tokens.size(), 3U);
  const Answer answer = first.wait().front();
  EXPECT_EQ(answer.tokens.size(), 100U);
  EXPECT_EQ(answer.usage.preemptions, 1);
  EXPECT_LT(urgent.usage.total_seconds, answer.usage.total_seconds);
  expect_all_given_back(*engine);
}

// ---- what a request may ask for ---------------------------------------------

TEST(Engine, StopTextsEndAcrossTokensAndTextIsWhole) {
  const WithTokenizer with;
  Engine engine(with.model, small(512, 2, 1024));
  EngineRequest request = request_of(random_prompt(12), 200);
  request.sampler.temperature = 1.5F;
  const Answer whole = run(engine, request);
  EXPECT_EQ(whole.text, with.model->tokenizer()->decode(whole.tokens));
  // Two characters that came with different tokens.
  std::size_t at = 20;
  while (at + 2 < whole.text.size() &&
         (whole.text[at] < 33 || whole.text[at] > 126 || whole.text[at + 1] < 33 || whole.text[at + 1] > 126))
    ++at;
  request.stop = {whole.text.substr(at, 2)};
  const std::size_t first = whole.text.find(request.stop[0]);
  const Answer stopped = run(engine, request);
  EXPECT_EQ(stopped.finished, StopReason::kStopText);
  EXPECT_EQ(stopped.text, whole.text.substr(0, first));
  EXPECT_LT(stopped.tokens.size(), whole.tokens.size());
  // Not before so many tokens.
  request.min_tokens = static_cast<int>(stopped.tokens.size());
  const Answer later = run(engine, request);
  EXPECT_GT(later.tokens.size(), stopped.tokens.size());
  EXPECT_TRUE(later.text.starts_with(whole.text.substr(0, first + 2)));
  expect_all_given_back(engine);
}

TEST(Engine, EndTokensWaitForMinTokens) {
  Engine engine(fixture_model("llama-tiny"), small(256, 2, 512));
  EngineRequest request = request_of(random_prompt(12), 60);
  const std::vector<TokenId> all = run(engine, request).tokens;
  request.stop_ids = {all[7]};
  const std::size_t at = static_cast<std::size_t>(std::find(all.begin(), all.end(), all[7]) - all.begin());
  const Answer early = run(engine, request);
  EXPECT_EQ(early.finished, StopReason::kEndToken);
  EXPECT_EQ(early.tokens, std::vector<TokenId>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(at)));
  request.min_tokens = 20;
  const Answer late = run(engine, request);
  EXPECT_GE(late.tokens.size(), 20U);
  EXPECT_EQ(std::find(late.tokens.begin(), late.tokens.begin() + 20, all[7]), late.tokens.begin() + 20);
  request.ignore_end = false;
  request.stop_ids.clear();
  request.min_tokens = 0;
  request.sampler.logit_bias = {{2, 1000.0F}};  // the model's end
  const Answer none = run(engine, request);
  EXPECT_EQ(none.finished, StopReason::kEndToken);
  EXPECT_TRUE(none.tokens.empty());
  expect_all_given_back(engine);
}

TEST(Engine, LogprobsAreThoseOfTheLogits) {
  const auto model = fixture_model("llama-tiny");
  Engine engine(model, small(256, 2, 512));
  EngineRequest request = request_of(random_prompt(40), 5);
  request.sampler.temperature = 2;
  request.logprobs = 3;
  request.prompt_logprobs = true;
  static_cast<void>(run(engine, request_of(request.prompt, 5)));  // what it leaves in the cache is not used
  const Answer answer = run(engine, request);
  ASSERT_EQ(answer.prompt_logprobs.size(), 40U);
  ASSERT_EQ(answer.logprobs.size(), 5U);
  EXPECT_EQ(answer.usage.cached_tokens, 0);
  std::vector<TokenId> all = request.prompt;
  all.insert(all.end(), answer.tokens.begin(), answer.tokens.end());
  std::vector<TokenLogprob> found = answer.prompt_logprobs;
  found.insert(found.end(), answer.logprobs.begin(), answer.logprobs.end());
  Session session(model, {1, 256, 64, 64});
  session.step(std::array{SequenceInput{session.open(), all, 0}}, [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows) {
      if (row.token + 1 == all.size()) continue;
      const TokenLogprob& each = found[row.token + 1];
      EXPECT_EQ(each.id, all[row.token + 1]);
      double sum = 0;
      for (const float x : row.values) sum += std::exp(static_cast<double>(x));
      const auto of = [&](TokenId id) {
        return static_cast<double>(row.values[static_cast<std::size_t>(id)]) - std::log(sum);
      };
      EXPECT_NEAR(each.logprob, of(each.id), 1e-4);
      ASSERT_EQ(each.top.size(), 3U);
      for (const auto& [id, logprob] : each.top) EXPECT_NEAR(logprob, of(id), 1e-4);
      EXPECT_EQ(row.values[static_cast<std::size_t>(each.top[0].first)],
                *std::max_element(row.values.begin(), row.values.end()));
      EXPECT_GE(each.top[0].second, each.top[1].second);
    }
  });
  request.max_tokens = 0;
  const Answer echo = run(engine, request);
  EXPECT_TRUE(echo.tokens.empty());
  EXPECT_EQ(echo.finished, StopReason::kLength);
  EXPECT_TRUE(echo.prompt_logprobs == answer.prompt_logprobs);
  request.prompt = {5};
  EXPECT_EQ(run(engine, request).prompt_logprobs.size(), 1U);
  expect_all_given_back(engine);
}

// As where a thought is ended at its budget.
TEST(Engine, AnAnswerThatWasCutGoesOnWithItsPenalties) {
  Engine engine(fixture_model("llama-tiny"), small(256, 4, 1024));
  EngineRequest whole = request_of(random_prompt(30, 4), 24);
  whole.sampler.temperature = 0;
  whole.sampler.frequency_penalty = 1.5F;
  whole.sampler.presence_penalty = 1.0F;
  const std::vector<TokenId> expected = run(engine, whole).tokens;
  ASSERT_EQ(expected.size(), 24U);
  EngineRequest rest = whole;
  rest.prompt.insert(rest.prompt.end(), expected.begin(), expected.begin() + 10);
  rest.max_tokens = 14;
  const std::vector<TokenId> forgotten = run(engine, rest).tokens;
  rest.answered = 10;
  const std::vector<TokenId> tokens = run(engine, rest).tokens;
  EXPECT_EQ(tokens, std::vector<TokenId>(expected.begin() + 10, expected.end()));
  EXPECT_NE(tokens, forgotten);  // else the penalties would change nothing here
}

TEST(Engine, BiasesComeFirst) {
  Engine engine(fixture_model("llama-tiny"), small(256, 2, 512));
  EngineRequest request = request_of(random_prompt(12), 6);
  request.sampler.logit_bias = {{77, 1000.0F}};
  EXPECT_EQ(run(engine, request).tokens, std::vector<TokenId>(6, 77));
  expect_all_given_back(engine);
}

}  // namespace
}  // namespace metal_marlin

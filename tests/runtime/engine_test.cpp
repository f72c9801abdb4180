// Engines: many requests at a time, each as it would be alone, and nothing left behind however they end.
#include "metal_marlin/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <iterator>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>

#include "metal_marlin/generate.h"
#include "runtime/engine_hooks.h"
#include "test_data.h"

namespace metal_marlin {

// Engines whose steps fail as a test wants.
class EngineWithFaults {
 public:
  static std::unique_ptr<Engine> make(std::shared_ptr<const Model> model, const EngineOptions& options,
                                      std::function<void()> before_step, std::function<void()> between_steps = {}) {
    return std::unique_ptr<Engine>(
        new Engine(std::move(model), options, Engine::Hooks{std::move(before_step), std::move(between_steps)}));
  }
};

namespace {

using namespace std::chrono_literals;

std::shared_ptr<const Model> load_model(const std::filesystem::path& path, const std::string& cache = "") {
  LoadOptions options;
  options.exact = cache.empty();
  options.kv_cache = cache;
  options.threads = 1;  // small models: threads would wait for each other
  return Model::load(path, options);
}
std::shared_ptr<const Model> fixture(const std::string& name, const std::string& cache = "") {
  return load_model(test_data("fixtures") / name, cache);
}

// llama-tiny with a tokenizer whose first 256 tokens are the bytes, the others no text.
class WithTokenizer {
 public:
  WithTokenizer() {
    std::filesystem::copy(test_data("fixtures/llama-tiny"), folder_.path(), std::filesystem::copy_options::recursive);
    nlohmann::json vocabulary;
    int others = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      const int point = shown ? byte : others++;
      std::string name;
      if (point < 128) {
        name = static_cast<char>(point);
      } else {
        name = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
      }
      vocabulary[name] = byte;
    }
    nlohmann::json tokenizer;
    tokenizer["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}};
    tokenizer["pre_tokenizer"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    tokenizer["decoder"] = tokenizer["pre_tokenizer"];
    std::ofstream(folder_.path() / "tokenizer.json") << tokenizer.dump();
    model = load_model(folder_.path());
  }

 private:
  TemporaryFolder folder_;

 public:
  std::shared_ptr<const Model> model;
};

std::vector<TokenId> random_prompt(std::size_t count, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<TokenId> out(count);
  for (TokenId& id : out) id = static_cast<TokenId>(3 + random() % 200);
  return out;
}

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
  std::optional<StopReason> finished;
  std::optional<Error> error;
  EngineUsage usage;
  int events = 0;
};

// What came of one request.
class Answers {
 public:
  explicit Answers(int samples) : state_(std::make_shared<State>()) {
    state_->answers.resize(static_cast<std::size_t>(samples));
    state_->left = samples;
  }
  // also: called with each event after it was noted.
  [[nodiscard]] OnEngineEvent callback(std::function<void(const EngineEvent&)> also = {}) const {
    return [state = state_, also = std::move(also)](const EngineEvent& event) {
      {
        const std::lock_guard lock(state->mutex);
        Answer& answer = state->answers.at(static_cast<std::size_t>(event.sample));
        EXPECT_FALSE(answer.finished || answer.error) << "an event after the last";
        ++answer.events;
        answer.text += event.text;
        answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
        answer.logprobs.insert(answer.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
        answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                      event.prompt_logprobs.end());
        answer.finished = event.finished;
        answer.error = event.error;
        answer.usage = event.usage;
        if (event.is_last()) --state->left;
      }
      state->changed.notify_all();
      if (also) also(event);
    };
  }
  [[nodiscard]] std::vector<Answer> wait() const {
    std::unique_lock lock(state_->mutex);
    if (!state_->changed.wait_for(lock, 120s, [&] { return state_->left == 0; })) ADD_FAILURE() << "no answer";
    return state_->answers;
  }
  void wait_for_tokens(std::size_t count) const {
    std::unique_lock lock(state_->mutex);
    EXPECT_TRUE(state_->changed.wait_for(lock, 120s, [&] { return state_->answers[0].tokens.size() >= count; }));
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Answer> answers;
    int left = 0;
  };
  std::shared_ptr<State> state_;
};

Answers submit(Engine& engine, const EngineRequest& request, std::function<void(const EngineEvent&)> also = {}) {
  Answers answers(request.samples);
  engine.submit(request, answers.callback(std::move(also)));
  return answers;
}
Answer run(Engine& engine, const EngineRequest& request) {
  return submit(engine, request).wait().front();
}

EngineRequest request_of(std::vector<TokenId> prompt, int max_tokens) {
  EngineRequest out;
  out.prompt = std::move(prompt);
  out.max_tokens = max_tokens;
  out.ignore_end = true;
  return out;
}

EngineOptions small(std::int64_t context, int parallel, std::int64_t cache_tokens) {
  EngineOptions out;
  out.context = context;
  out.parallel = parallel;
  out.cache_tokens = cache_tokens;
  out.step_tokens = 64;
  return out;
}

// The engine has nothing to do, and what it had is given back.
void expect_all_given_back(Engine& engine) {
  EXPECT_TRUE(engine.drain(60s));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.cache.held, 0);
  EXPECT_EQ(stats.cache.shared, 0);
  EXPECT_TRUE(engine.healthy()) << engine.failure();
}

TEST(Engine, AnswersAreThoseOfGenerate) {
  const WithTokenizer with;
  Engine engine(with.model, small(256, 4, 1024));
  for (const std::uint64_t seed : {1, 2, 3}) {
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

// Over a cache that holds one and a half of them, from several threads, some cancelled.
void expect_each_as_alone(const std::shared_ptr<const Model>& model, bool has_text, int count) {
  EngineOptions options = small(128, 6, 192);
  options.queue = count;
  Engine engine(model, options);
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
  if (count >= 100) {
    EXPECT_GT(engine.stats().preemptions, 0);
    EXPECT_GT(engine.stats().cached_tokens, 0);
    EXPECT_GT(engine.stats().cache.copied, 0);
  }
}

TEST(Engine, RandomRequestsOverASmallCacheAreAsAlone) {
  expect_each_as_alone(WithTokenizer().model, true, requests_to_run());
}

// Every kind of layer and of cache.
TEST(Engine, EveryModelAndCacheIsTheSameAsAlone) {
  const int count = std::max(2, requests_to_run() / 20);
  for (const char* const name : {"qwen3-tiny", "qwen3-window", "qwen3-moe", "glm4-moe-lite-tiny"})
    expect_each_as_alone(fixture(name), false, count);
  for (const char* const cache : {"f16", "fp8", "int8", "int4", "fp4"})
    expect_each_as_alone(fixture("llama-tiny", cache), false, count);
  expect_each_as_alone(fixture("glm4-moe-lite-tiny", "int8"), false, count);
}

TEST(Engine, IdenticalRequestsAtOnceShareWhatTheyCan) {
  Engine engine(fixture("llama-tiny"), small(128, 4, 512));
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
  Engine engine(fixture("llama-tiny"), small(256, 4, 1024));
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
  Engine engine(fixture("llama-tiny"), small(64, 1, 64));
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
  Engine engine(fixture("llama-tiny"), small(64, 2, 128));
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
  const auto engine = EngineWithFaults::make(fixture("llama-tiny"), options, [gone] { gone.wait(); });
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

// ---- what ends them ---------------------------------------------------------

// Lets steps go on until one, which waits.
class Pause {
 public:
  explicit Pause(int at) : at_(at) {}
  [[nodiscard]] std::function<void()> hook() {
    return [this] {
      std::unique_lock lock(mutex_);
      ++steps_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return steps_ != at_ || is_over_; });
    };
  }
  void wait_until_there() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return steps_ >= at_; });
  }
  void end() {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  }
  int steps() {
    const std::lock_guard lock(mutex_);
    return steps_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int at_;
  int steps_ = 0;
  bool is_over_ = false;
};

TEST(Engine, CancelDuringThePromptGivesThePagesBack) {
  Pause pause(3);
  const auto engine = EngineWithFaults::make(fixture("llama-tiny"), small(4000, 2, 4000), pause.hook());
  const Answers answers(1);
  const RequestId id = engine->submit(request_of(random_prompt(3900), 2), answers.callback());
  pause.wait_until_there();
  engine->cancel(id);
  pause.end();
  const Answer answer = answers.wait().front();
  EXPECT_EQ(answer.finished, StopReason::kCancelled);
  EXPECT_TRUE(answer.tokens.empty());
  EXPECT_EQ(pause.steps(), 3);
  engine->cancel(id);  // too late, and for one that never was
  engine->cancel(12345);
  expect_all_given_back(*engine);
}

TEST(Engine, CallbacksMayCancelAndSubmit) {
  Engine engine(fixture("llama-tiny"), small(512, 2, 1024));
  std::promise<RequestId> id;
  std::shared_future<RequestId> known = id.get_future().share();
  const Answers inner(1);
  std::atomic<int> calls = 0;
  const Answers outer(1);
  id.set_value(engine.submit(request_of(random_prompt(5), 400), outer.callback([&, known](const EngineEvent&) {
    if (++calls != 3) return;
    engine.cancel(known.get());
    engine.submit(request_of(random_prompt(7), 3), inner.callback());
  })));
  EXPECT_EQ(outer.wait().front().finished, StopReason::kCancelled);
  EXPECT_LT(outer.wait().front().tokens.size(), 400U);
  EXPECT_EQ(inner.wait().front().tokens.size(), 3U);
  expect_all_given_back(engine);
}

TEST(Engine, ACallbackThatThrowsEndsItsRequestAlone) {
  Engine engine(fixture("llama-tiny"), small(512, 4, 2048));
  std::atomic<int> calls = 0;
  EngineRequest bad = request_of(random_prompt(5), 400);
  bad.samples = 2;
  engine.submit(bad, [&](const EngineEvent&) {
    if (++calls == 3) throw std::runtime_error("the reader is gone");
  });
  EXPECT_EQ(run(engine, request_of(random_prompt(9), 30)).tokens.size(), 30U);
  expect_all_given_back(engine);
  EXPECT_EQ(calls, 3);
  EXPECT_LT(engine.stats().generated_tokens, 800);
}

TEST(Engine, DrainRefusesAndWaitsOrCancels) {
  {
    Engine engine(fixture("llama-tiny"), small(512, 2, 1024));
    const Answers answers = submit(engine, request_of(random_prompt(5), 50));
    EXPECT_TRUE(engine.drain(60s));
    EXPECT_EQ(answers.wait().front().tokens.size(), 50U);
    expect_error(ErrorCode::kBusy, "takes no more requests", [&] { submit(engine, request_of({1}, 1)); });
  }
  const auto slow =
      EngineWithFaults::make(fixture("llama-tiny"), small(512, 2, 1024), [] { std::this_thread::sleep_for(5ms); });
  const Answers answers = submit(*slow, request_of(random_prompt(5), 500));
  EXPECT_FALSE(slow->drain(20ms));
  EXPECT_EQ(answers.wait().front().finished, StopReason::kCancelled);
  EXPECT_EQ(slow->stats().cache.held, 0);
}

TEST(Engine, DestroyedWithOpenRequestsItTellsThem) {
  std::vector<Answers> answers;
  {
    Engine engine(fixture("llama-tiny"), small(512, 2, 1024));
    for (int i = 0; i < 6; ++i) answers.push_back(submit(engine, request_of(random_prompt(5), 500)));
    answers.front().wait_for_tokens(2);
  }
  for (const Answers& each : answers) {
    const Answer answer = each.wait().front();
    EXPECT_TRUE(answer.finished == StopReason::kCancelled || answer.tokens.size() == 500U);
  }
}

// ---- steps that fail --------------------------------------------------------

TEST(Engine, AFailedStepFailsItsRequestsAndTheEngineGoesOn) {
  std::atomic<int> fail = 0;
  const auto engine = EngineWithFaults::make(fixture("llama-tiny"), small(128, 4, 512), [&] {
    if (fail.exchange(0) == 1) throw Error(ErrorCode::kIo, "the device is gone");
  });
  const Answers first = submit(*engine, request_of(random_prompt(5), 100));
  first.wait_for_tokens(3);
  fail = 1;
  const Answer answer = first.wait().front();
  ASSERT_TRUE(answer.error);
  EXPECT_EQ(answer.error->code(), ErrorCode::kIo);
  EXPECT_STREQ(answer.error->what(), "the device is gone");
  EXPECT_EQ(run(*engine, request_of(random_prompt(5), 10)).tokens.size(), 10U);
  expect_all_given_back(*engine);
  EXPECT_EQ(engine->stats().failed, 1);
}

TEST(Engine, WhereTheCacheCannotGrowSomeWait) {
  for (const bool as_error : {true, false}) {
    std::atomic<int> refusals = 3;
    const auto engine = EngineWithFaults::make(fixture("llama-tiny"), small(128, 4, 512), [&, as_error] {
      if (refusals <= 0) return;
      --refusals;
      if (as_error) throw Error(ErrorCode::kOutOfMemory, "no memory");
      throw std::bad_alloc();
    });
    EngineRequest samples = request_of({7}, 10);
    samples.sampler.temperature = 1;
    samples.samples = 4;  // let in at once
    for (const Answer& answer : submit(*engine, samples).wait()) {
      EXPECT_FALSE(answer.error) << answer.error->what();
      EXPECT_EQ(answer.tokens.size(), 10U);
    }
    EXPECT_EQ(engine->stats().preemptions, 3);
    refusals = 1;  // of one alone there is none to put off
    const Answer answer = run(*engine, request_of(random_prompt(20), 10));
    ASSERT_TRUE(answer.error);
    EXPECT_EQ(answer.error->code(), ErrorCode::kOutOfMemory);
    expect_all_given_back(*engine);
  }
}

TEST(Engine, AStepThatHangsIsNoticed) {
  EngineOptions options = small(128, 2, 512);
  options.hang_after = 50ms;
  auto go = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  const std::shared_future<void> gone = go->get_future().share();
  const auto model = fixture("llama-tiny");
  auto engine = EngineWithFaults::make(model, options, [gone, ended] {
    gone.wait();
    ended->set_value();
    throw Error(ErrorCode::kIo, "too late");
  });
  EngineRequest request = request_of(random_prompt(5), 10);
  request.samples = 3;
  for (const Answer& answer : submit(*engine, request).wait()) {
    ASSERT_TRUE(answer.error);
    EXPECT_STREQ(answer.error->what(), "a step of the engine hangs: it has taken more than 50 ms");
  }
  EXPECT_FALSE(engine->healthy());
  expect_error(ErrorCode::kInternal, "hangs", [&] { submit(*engine, request); });
  EXPECT_TRUE(engine->drain(10s));
  engine.reset();  // does not wait for it
  go->set_value();
  ended->get_future().wait();
  while (model.use_count() > 1) std::this_thread::yield();
}

TEST(Engine, AThreadThatDiesIsNoticed) {
  std::atomic<bool> die = false;
  const auto engine = EngineWithFaults::make(fixture("llama-tiny"), small(128, 2, 512), {}, [&] {
    if (die) throw std::runtime_error("struck");
  });
  const Answers first = submit(*engine, request_of(random_prompt(5), 120));
  const Answers second = submit(*engine, request_of(random_prompt(6), 120));
  first.wait_for_tokens(2);
  die = true;
  for (const Answers& each : {first, second}) {
    const Answer answer = each.wait().front();
    ASSERT_TRUE(answer.error);
    EXPECT_STREQ(answer.error->what(), "the engine's thread died: struck");
  }
  EXPECT_FALSE(engine->healthy());
  EXPECT_TRUE(engine->drain(10s));
}

// Elements of a safetensors file of bf16 or f32, in place.
class Weights {
 public:
  explicit Weights(std::filesystem::path file) : file_(std::move(file)), read_(file_) {
    std::ifstream in(file_, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
    std::uint64_t header = 0;
    std::memcpy(&header, bytes_.data(), sizeof header);
    data_ = sizeof header + header;
    for (const auto& [name, view] : read_.tensors())
      first_ = first_ == nullptr ? view.bytes.data() : std::min(first_, view.bytes.data());
  }
  ~Weights() { std::ofstream(file_, std::ios::binary) << bytes_; }
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  void set(const std::string& name, std::size_t index, std::size_t count, float value) {
    const DenseView& view = read_.tensors().at(name);
    const std::size_t size = view.bytes.size() / count;  // of an element
    const auto bits = std::bit_cast<std::array<char, 4>>(value);
    const std::size_t at = data_ + static_cast<std::size_t>(view.bytes.data() - first_) + index * size;
    std::copy(bits.end() - static_cast<std::ptrdiff_t>(size), bits.end(),
              bytes_.begin() + static_cast<std::ptrdiff_t>(at));
  }

 private:
  std::filesystem::path file_;
  SafetensorsFile read_;
  std::string bytes_;
  std::size_t data_ = 0;
  const std::byte* first_ = nullptr;
};

// A token that makes numbers too large, beside requests that do not have it: it is zero but in one place, where all
// others are zero and a norm multiplies by 3e38.
TEST(Engine, NotFiniteLogitsEndTheirRequestAlone) {
  constexpr std::size_t kVocab = 384;
  constexpr std::size_t kHidden = 128;
  const TemporaryFolder folder;
  std::filesystem::copy(test_data("fixtures/llama-tiny"), folder.path(), std::filesystem::copy_options::recursive);
  {
    Weights weights(folder.path() / "model.safetensors");
    const auto embed = [&](std::size_t id, std::size_t column, float value) {
      weights.set("model.embed_tokens.weight", id * kHidden + column, kVocab * kHidden, value);
    };
    for (std::size_t id = 0; id < kVocab; ++id) embed(id, 0, id == 300 ? 1 : 0);
    for (std::size_t column = 1; column < kHidden; ++column) embed(300, column, 0);
    weights.set("model.layers.0.input_layernorm.weight", 0, kHidden, 3e38F);
  }
  const auto model = load_model(folder.path());
  Engine engine(model, small(128, 4, 512));
  EngineRequest good = request_of(random_prompt(9), 100);
  good.sampler.logit_bias = {{300, -1000.0F}};
  const Answers others = submit(engine, good);
  others.wait_for_tokens(2);
  const Answer answer = run(engine, request_of({4, 300, 5}, 10));
  ASSERT_TRUE(answer.error);
  EXPECT_EQ(answer.error->code(), ErrorCode::kCorruptFile);
  EXPECT_NE(std::string(answer.error->what()).find("the logits are not finite"), std::string::npos);
  EXPECT_EQ(others.wait().front().tokens.size(), 100U);
  EXPECT_EQ(others.wait().front().tokens, run(engine, good).tokens);
  expect_all_given_back(engine);
}

// ---- who goes first ---------------------------------------------------------

TEST(Engine, ALongPromptIsNotStarvedNorDoesItStarveOthers) {
  Engine engine(fixture("llama-tiny"), small(2048, 4, 2400));
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
  const Answer answer = run(engine, request_of(random_prompt(2000), 8));
  EXPECT_EQ(answer.tokens.size(), 8U);
  const int meanwhile = short_ones;
  done = true;
  for (std::thread& client : clients) client.join();
  EXPECT_GT(meanwhile, 3);
  expect_all_given_back(engine);
}

// Two that want the whole cache each: one waits for the other, and both end.
TEST(Engine, RequestsThatDoNotFitTogetherTakeTurns) {
  Engine engine(fixture("llama-tiny"), small(256, 4, 256));
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
  const auto engine = EngineWithFaults::make(fixture("llama-tiny"), small(1024, 1, 1024), pause.hook());
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
  Engine engine(fixture("llama-tiny"), small(256, 2, 512));
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
  const auto model = fixture("llama-tiny");
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

TEST(Engine, BiasesComeFirst) {
  Engine engine(fixture("llama-tiny"), small(256, 2, 512));
  EngineRequest request = request_of(random_prompt(12), 6);
  request.sampler.logit_bias = {{77, 1000.0F}};
  EXPECT_EQ(run(engine, request).tokens, std::vector<TokenId>(6, 77));
  expect_all_given_back(engine);
}

}  // namespace
}  // namespace metal_marlin

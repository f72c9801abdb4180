// Engines: nothing is left behind however requests end, and steps fail.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <future>
#include <iterator>
#include <new>
#include <stdexcept>
#include <thread>

#include "engine_testing.h"

namespace metal_marlin {
namespace {

// ---- what ends them ---------------------------------------------------------

TEST(EngineFailures, CancelDuringThePromptGivesThePagesBack) {
  Pause pause(3);
  const auto engine = EngineWithFaults::make(fixture_model("llama-tiny"), small(4000, 2, 4000), pause.hook());
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

TEST(EngineFailures, CallbacksMayCancelAndSubmit) {
  Pause pause(10);  // until it was cancelled
  const auto faulty = EngineWithFaults::make(fixture_model("llama-tiny"), small(512, 2, 1024), pause.hook());
  Engine& engine = *faulty;
  std::promise<RequestId> id;
  std::shared_future<RequestId> known = id.get_future().share();
  const Answers inner(1);
  std::atomic<int> calls = 0;
  const Answers outer(1);
  id.set_value(engine.submit(request_of(random_prompt(5), 400), outer.callback([&, known](const EngineEvent&) {
    if (++calls != 3) return;
    engine.cancel(known.get());
    engine.submit(request_of(random_prompt(7), 3), inner.callback());
    pause.end();
  })));
  EXPECT_EQ(outer.wait().front().finished, StopReason::kCancelled);
  EXPECT_LT(outer.wait().front().tokens.size(), 400U);
  EXPECT_EQ(inner.wait().front().tokens.size(), 3U);
  expect_all_given_back(engine);
}

TEST(EngineFailures, ACallbackThatThrowsEndsItsRequestAlone) {
  Engine engine(fixture_model("llama-tiny"), small(512, 4, 2048));
  std::atomic<int> calls = 0;
  EngineRequest bad = request_of(random_prompt(5), 400);
  bad.samples = 2;
  engine.submit(bad, [&](const EngineEvent&) {
    if (++calls == 3) throw std::runtime_error("the reader is gone");
  });
  EXPECT_EQ(run(engine, request_of(random_prompt(9), 30)).tokens.size(), 30U);
  expect_all_given_back(engine);
  EXPECT_EQ(calls, 3);
}

TEST(EngineFailures, DrainRefusesAndWaitsOrCancels) {
  {
    Engine engine(fixture_model("llama-tiny"), small(512, 2, 1024));
    const Answers answers = submit(engine, request_of(random_prompt(5), 50));
    EXPECT_TRUE(engine.drain(60s));
    EXPECT_EQ(answers.wait().front().tokens.size(), 50U);
    expect_error(ErrorCode::kBusy, "takes no more requests", [&] { submit(engine, request_of({1}, 1)); });
  }
  const auto slow = EngineWithFaults::make(fixture_model("llama-tiny"), small(512, 2, 1024),
                                           [] { std::this_thread::sleep_for(5ms); });
  const Answers answers = submit(*slow, request_of(random_prompt(5), 500));
  EXPECT_FALSE(slow->drain(20ms));
  EXPECT_EQ(answers.wait().front().finished, StopReason::kCancelled);
  EXPECT_EQ(slow->stats().cache.held, 0);
}

TEST(EngineFailures, DestroyedWithOpenRequestsItTellsThem) {
  std::vector<Answers> answers;
  {
    Engine engine(fixture_model("llama-tiny"), small(512, 2, 1024));
    for (int i = 0; i < 6; ++i) answers.push_back(submit(engine, request_of(random_prompt(5), 500)));
    answers.front().wait_for_tokens(2);
  }
  for (const Answers& each : answers) {
    const Answer answer = each.wait().front();
    EXPECT_TRUE(answer.finished == StopReason::kCancelled || answer.tokens.size() == 500U);
  }
}

// ---- steps that fail --------------------------------------------------------

TEST(EngineFailures, AFailedStepFailsItsRequestsAndTheEngineGoesOn) {
  std::atomic<int> steps = 0;
  const auto engine = EngineWithFaults::make(fixture_model("llama-tiny"), small(128, 4, 512), [&] {
    if (++steps == 5) throw Error(ErrorCode::kIo, "the device is gone");
  });
  const Answers first = submit(*engine, request_of(random_prompt(5), 100));
  const Answer answer = first.wait().front();
  ASSERT_TRUE(answer.error);
  EXPECT_EQ(answer.error->code(), ErrorCode::kIo);
  EXPECT_STREQ(answer.error->what(), "the device is gone");
  EXPECT_EQ(run(*engine, request_of(random_prompt(5), 10)).tokens.size(), 10U);
  expect_all_given_back(*engine);
  EXPECT_EQ(engine->stats().failed, 1);
}

TEST(EngineFailures, WhereTheCacheCannotGrowSomeWait) {
  for (const bool as_error : {true, false}) {
    std::atomic<int> refusals = 3;
    const auto engine = EngineWithFaults::make(fixture_model("llama-tiny"), small(128, 4, 512), [&, as_error] {
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

TEST(EngineFailures, AStepThatHangsIsNoticed) {
  EngineOptions options = small(128, 2, 512);
  options.hang_after = 50ms;
  auto go = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  const std::shared_future<void> gone = go->get_future().share();
  const auto model = fixture_model("llama-tiny");
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

TEST(EngineFailures, ADrainDoesNotWaitForAStepThatHangs) {
  EngineOptions options = small(128, 2, 512);
  options.hang_after = 600s;
  auto go = std::make_shared<std::promise<void>>();
  const std::shared_future<void> gone = go->get_future().share();
  const auto model = fixture_model("llama-tiny");
  auto engine = EngineWithFaults::make(model, options, [gone] { gone.wait(); });
  const Answers answers = submit(*engine, request_of(random_prompt(5), 10));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(engine->drain(20ms));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  ASSERT_TRUE(answers.wait().front().error);
  EXPECT_STREQ(answers.wait().front().error->what(), "a step of the engine hangs: it has taken more than 5000 ms");
  engine.reset();  // does not wait for it
  go->set_value();
  while (model.use_count() > 1) std::this_thread::yield();
}

TEST(EngineFailures, AThreadThatDiesIsNoticed) {
  std::atomic<int> steps = 0;
  const auto engine = EngineWithFaults::make(fixture_model("llama-tiny"), small(128, 2, 512), {}, [&] {
    if (++steps == 5) throw std::runtime_error("struck");
  });
  EngineRequest request = request_of(random_prompt(5), 120);
  request.samples = 2;
  for (const Answer& answer : submit(*engine, request).wait()) {
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
TEST(EngineFailures, NotFiniteLogitsEndTheirRequestAlone) {
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

}  // namespace
}  // namespace metal_marlin

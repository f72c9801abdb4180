// Slots of the engine: who has them, and conversations that are saved, restored and erased.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "metal_marlin/sequence_file.h"
#include "runtime/engine_testing.h"

namespace metal_marlin {
namespace {

EngineRequest slot_request(std::vector<TokenId> prompt, int slot = -1, int most = 8) {
  EngineRequest out = request_of(std::move(prompt), most);
  out.sampler.temperature = 0;
  out.slot = slot;
  return out;
}

std::vector<TokenId> longer(std::vector<TokenId> tokens, std::span<const TokenId> more, std::uint32_t seed) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  const std::vector<TokenId> own = random_prompt(20, seed);
  tokens.insert(tokens.end(), own.begin(), own.end());
  return tokens;
}

// Save, another engine of a model that was loaded anew, restore, and the conversation goes on.
TEST(EngineSlots, AConversationGoesOnInAnotherEngine) {
  const TemporaryFolder folder;
  const std::vector<TokenId> first = random_prompt(100);
  std::vector<TokenId> second;
  Answer expected;
  {
    Engine engine(fixture_model("llama-tiny"), small(400, 2, 400));
    second = longer(first, run(engine, slot_request(first, 1, 12)).tokens, 9);
    // 111 tokens are in the cache: the last that was drawn is not.
    const EngineSlot slot = engine.slots().at(1);
    EXPECT_FALSE(slot.is_running);
    EXPECT_EQ(slot.request, 1U);
    EXPECT_EQ(slot.prompt_tokens, 100);
    EXPECT_EQ(slot.generated_tokens, 12);
    EXPECT_EQ(slot.tokens, 111);
    const SavedSequence saved = engine.save(1);
    EXPECT_EQ(saved.length, 96);
    write_sequence(folder.path() / "file", saved, engine.model());
    expected = run(engine, slot_request(second));
    EXPECT_GT(expected.usage.cached_tokens, 0);
  }
  Engine engine(fixture_model("llama-tiny"), small(400, 2, 400));
  const auto saved = std::make_shared<const SavedSequence>(read_sequence(folder.path() / "file", engine.model()));
  EXPECT_EQ(engine.restore(0, saved), 96);
  EXPECT_EQ(engine.slots().at(0).tokens, 96);
  EXPECT_EQ(engine.stats().cache.asked_tokens, 0);  // of requests alone
  const Answer found = run(engine, slot_request(second));
  EXPECT_EQ(found.usage.cached_tokens, 96);
  EXPECT_EQ(engine.stats().prompt_tokens, static_cast<std::int64_t>(second.size()) - 96);
  EXPECT_EQ(found.tokens, expected.tokens);
  EXPECT_EQ(engine.slots().at(0).request, 1U);  // it went on in the slot of its conversation
  EXPECT_EQ(engine.slots().at(1).request, 0U);
  expect_all_given_back(engine);
}

TEST(EngineSlots, AreTakenByWhatGoesOnInThem) {
  Engine engine(fixture_model("llama-tiny"), small(256, 3, 768));
  const std::vector<TokenId> a = random_prompt(40, 1);
  const std::vector<TokenId> b = random_prompt(40, 2);
  const auto slot_of_last = [&] {
    const auto slots = engine.slots();
    return std::max_element(slots.begin(), slots.end(),
                            [](const auto& x, const auto& y) { return x.request < y.request; })
        ->id;
  };
  const std::vector<TokenId> after_a = run(engine, slot_request(a)).tokens;
  EXPECT_EQ(slot_of_last(), 0);
  const std::vector<TokenId> after_b = run(engine, slot_request(b)).tokens;
  EXPECT_EQ(slot_of_last(), 1);
  (void)run(engine, slot_request(longer(a, after_a, 3)));
  EXPECT_EQ(slot_of_last(), 0);
  // A short common beginning is none to go on from: an empty slot is taken, then the oldest.
  std::vector<TokenId> other(a.begin(), a.begin() + 16);
  other = longer(other, {}, 4);
  (void)run(engine, slot_request(other));
  EXPECT_EQ(slot_of_last(), 2);
  (void)run(engine, slot_request(random_prompt(30, 5)));
  EXPECT_EQ(slot_of_last(), 1);
  (void)run(engine, slot_request(random_prompt(30, 6), 2));
  EXPECT_EQ(slot_of_last(), 2);
  expect_error(ErrorCode::kInvalidArgument, "request: slot is 3, expected -1 to 2",
               [&] { engine.submit(slot_request(a, 3), [](const EngineEvent&) {}); });
}

// An engine whose steps take their time, so that a sample of many tokens runs until it is cancelled.
std::unique_ptr<Engine> slow_engine(const EngineOptions& options) {
  return EngineWithFaults::make(fixture_model("llama-tiny"), options, [] { std::this_thread::sleep_for(3ms); });
}

// A request for a slot that another has waits, and others pass it.
TEST(EngineSlots, AreWaitedFor) {
  const auto engine = slow_engine(small(400, 2, 800));
  std::vector<int> ended;  // of the thread that tells
  Answers first(1);
  const RequestId id = engine->submit(slot_request(random_prompt(20, 1), 1, 380), first.callback());
  first.wait_for_tokens(1);
  const auto ask = [&](int number, int slot) {
    return submit(*engine, slot_request(random_prompt(20, static_cast<std::uint32_t>(number)), slot, 4),
                  [&ended, number](const EngineEvent& event) {
                    if (event.is_last()) ended.push_back(number);
                  });
  };
  const Answers second = ask(2, 1);
  const Answers third = ask(3, -1);
  expect_error(ErrorCode::kBusy, "slot 1 runs a request", [&] { (void)engine->save(1); });
  expect_error(ErrorCode::kBusy, "slot 1 runs a request", [&] { engine->erase(1); });
  const EngineSlot slot = engine->slots().at(1);
  EXPECT_TRUE(slot.is_running);
  EXPECT_EQ(slot.request, id);
  EXPECT_EQ(slot.prompt_tokens, 20);
  EXPECT_GT(slot.generated_tokens, 0);
  EXPECT_EQ(slot.tokens, 19 + slot.generated_tokens);
  EXPECT_EQ(third.wait().front().tokens.size(), 4U);
  engine->cancel(id);
  EXPECT_EQ(first.wait().front().finished, StopReason::kCancelled);
  EXPECT_EQ(second.wait().front().tokens.size(), 4U);
  EXPECT_EQ(engine->slots().at(1).request, 2U);
  EXPECT_EQ(engine->slots().at(0).request, 3U);
  expect_all_given_back(*engine);
  EXPECT_EQ(ended, (std::vector{3, 2}));
}

TEST(EngineSlots, SamplesOfARequestHaveOneEach) {
  Engine engine(fixture_model("llama-tiny"), small(128, 4, 512));
  EngineRequest request = slot_request(random_prompt(20), 2);
  request.samples = 3;
  for (const Answer& answer : submit(engine, request).wait()) EXPECT_EQ(answer.tokens.size(), 8U);
  std::vector<RequestId> requests;
  for (const EngineSlot& slot : engine.slots()) requests.push_back(slot.request);
  EXPECT_EQ(std::count(requests.begin(), requests.end(), 1U), 3);
  EXPECT_EQ(requests[2], 1U);
}

TEST(EngineSlots, WhatIsErasedIsComputedAgain) {
  Engine engine(fixture_model("llama-tiny"), small(256, 2, 512));
  const std::vector<TokenId> a = random_prompt(70, 1);
  std::vector<TokenId> b(a.begin(), a.begin() + 40);  // two pages in common
  b = longer(b, {}, 2);
  (void)run(engine, slot_request(a, 0));
  (void)run(engine, slot_request(b, 1));
  EXPECT_EQ(engine.erase(0), 77);
  EXPECT_EQ(engine.slots().at(0).tokens, 0);
  EXPECT_EQ(engine.erase(0), 0);
  expect_error(ErrorCode::kNotFound, "slot 0 holds 0 tokens", [&] { (void)engine.save(0); });
  expect_error(ErrorCode::kInvalidArgument, "slot 2: there are 0 to 1", [&] { (void)engine.save(2); });
  expect_error(ErrorCode::kInvalidArgument, "slot -1: there are", [&] { engine.erase(-1); });
  EXPECT_EQ(run(engine, slot_request(a, 0)).usage.cached_tokens, 32);  // what the other has too
  EXPECT_EQ(run(engine, slot_request(b, 1)).usage.cached_tokens, 48);
}

TEST(EngineSlots, WithoutAPrefixCacheNothingIsSaved) {
  EngineOptions options = small(256, 2, 512);
  options.prefix_cache = false;
  Engine engine(fixture_model("llama-tiny"), options);
  (void)run(engine, slot_request(random_prompt(40), 0));
  expect_error(ErrorCode::kInvalidArgument, "no prefix cache", [&] { (void)engine.save(0); });
  EXPECT_EQ(engine.erase(0), 47);
}

TEST(EngineSlots, HoldConversationsOfOneKey) {
  Engine engine(fixture_model("llama-tiny"), small(256, 2, 512));
  EngineRequest request = slot_request(random_prompt(40), 0);
  request.fair_key = "a";
  (void)run(engine, request);
  EXPECT_EQ(engine.slots().at(0).fair_key, "a");
  expect_error(ErrorCode::kNotFound, "slot 0 holds no conversation of this key", [&] { (void)engine.save(0, "b"); });
  expect_error(ErrorCode::kNotFound, "slot 0 holds no conversation of this key", [&] { engine.erase(0, "b"); });
  const auto saved = std::make_shared<const SavedSequence>(engine.save(0, "a"));
  EXPECT_EQ(engine.erase(0, "a"), 47);
  EXPECT_EQ(engine.erase(0, "b"), 0);
  EXPECT_EQ(engine.restore(0, saved, "b"), 32);
  expect_error(ErrorCode::kNotFound, "slot 0 holds no conversation of this key", [&] { (void)engine.save(0, "a"); });
  EXPECT_EQ(engine.save(0, "b").tokens, saved->tokens);
}

// What is restored takes no page that those need who run, and what never fits is refused for good.
TEST(EngineSlots, LeaveThoseThatRunTheirRoom) {
  std::shared_ptr<const SavedSequence> saved;
  {
    Engine large(fixture_model("llama-tiny"), small(400, 2, 800));
    (void)run(large, slot_request(random_prompt(140, 2), 0, 6));
    saved = std::make_shared<const SavedSequence>(large.save(0));
    EXPECT_EQ(saved->length, 144);
  }
  Engine smaller(fixture_model("llama-tiny"), small(64, 1, 64));
  expect_error(ErrorCode::kInvalidArgument, "a conversation of 144 tokens: the cache holds ",
               [&] { smaller.restore(0, saved); });
  const auto engine = slow_engine(small(160, 2, 160));
  Answers answers(1);
  const RequestId id = engine->submit(slot_request(random_prompt(60, 3), 0, 100), answers.callback());
  answers.wait_for_tokens(1);
  expect_error(ErrorCode::kBusy, "a conversation of 9 pages: beside what runs the cache has room for ",
               [&] { engine->restore(1, saved); });
  engine->cancel(id);
  EXPECT_EQ(answers.wait().front().finished, StopReason::kCancelled);
  EXPECT_EQ(engine->stats().preemptions, 0);
  EXPECT_EQ(engine->restore(1, saved), 144);
  expect_all_given_back(*engine);
}

TEST(EngineSlots, KeepWhatAnAdapterComputed) {
  LoadOptions load;
  load.exact = true;
  load.threads = 1;
  load.adapters = {{"tales", test_data("adapters/llama-tiny-patterns")}};
  const auto model = Model::load(test_data("fixtures/llama-tiny"), load);
  EngineRequest request = slot_request(random_prompt(40), 0);
  request.adapter = "tales";
  std::shared_ptr<const SavedSequence> saved;
  std::vector<TokenId> expected;
  {
    Engine engine(model, small(256, 2, 512));
    expected = run(engine, request).tokens;
    EXPECT_EQ(engine.slots().at(0).adapter, "tales");
    saved = std::make_shared<const SavedSequence>(engine.save(0));
    EXPECT_EQ(saved->adapter, "tales");
  }
  Engine engine(model, small(256, 2, 512));
  EXPECT_EQ(engine.restore(1, saved), 32);
  EXPECT_EQ(engine.slots().at(1).adapter, "tales");
  EXPECT_EQ(run(engine, slot_request(random_prompt(40), 0)).usage.cached_tokens, 0);  // without it
  request.slot = 1;
  const Answer answer = run(engine, request);
  EXPECT_EQ(answer.usage.cached_tokens, 32);
  EXPECT_EQ(answer.tokens, expected);
}

// Those who wait for an engine that fails, or ends, are told.
TEST(EngineSlots, AHangingEngineKeepsNobodyWaiting) {
  const auto pause = std::make_shared<Pause>(2);
  EngineOptions options = small(128, 2, 512);
  options.hang_after = 200ms;
  const auto model = fixture_model("llama-tiny");
  auto engine = EngineWithFaults::make(model, options, [pause, hook = pause->hook()] { hook(); });
  const Answers answers = submit(*engine, slot_request(random_prompt(20), 0, 40));
  pause->wait_until_there();
  EXPECT_EQ(engine->slots().at(0).id, 0);
  expect_error(ErrorCode::kInternal, "hangs", [&] { (void)engine->save(1); });
  expect_error(ErrorCode::kInternal, "hangs", [&] { engine->erase(1); });
  EXPECT_TRUE(answers.wait().front().error.has_value());
  engine.reset();  // does not wait for its thread, which has the pause as well
  pause->end();
  while (model.use_count() > 1) std::this_thread::yield();
}

// Under load: what is saved while others run is what it would be alone, and memory is given back.
TEST(EngineSlots, AreSavedAndRestoredWhileOthersRun) {
  const auto model = fixture_model("llama-tiny");
  Engine engine(model, small(256, 4, 1024));
  const std::vector<TokenId> mine = random_prompt(50, 1);
  const Answer first = run(engine, slot_request(mine, 0));
  std::vector<Answers> others;
  for (std::uint32_t i = 0; i < 12; ++i) {
    EngineRequest request = slot_request(random_prompt(60, 100 + i), 1 + static_cast<int>(i % 3), 30);
    others.push_back(submit(engine, request));
  }
  const std::vector<TokenId> more = longer(mine, first.tokens, 7);
  std::optional<std::vector<TokenId>> expected;
  for (int round = 0; round < 6; ++round) {
    const auto saved = std::make_shared<const SavedSequence>(engine.save(0));
    EXPECT_GE(saved->length, 48);
    engine.erase(0);
    EXPECT_EQ(engine.restore(0, saved), saved->length);
    const Answer answer = run(engine, slot_request(more, 0));
    EXPECT_GE(answer.usage.cached_tokens, 48);
    if (!expected) expected = answer.tokens;
    EXPECT_EQ(answer.tokens, *expected);
  }
  for (const Answers& each : others) EXPECT_EQ(each.wait().front().tokens.size(), 30U);
  expect_all_given_back(engine);
}

}  // namespace
}  // namespace metal_marlin

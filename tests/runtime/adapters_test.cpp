// Sequences and requests with adapters.
#include <gtest/gtest.h>

#include <array>
#include <future>

#include "metal_marlin/embed.h"
#include "models/golden.h"
#include "runtime/engine_testing.h"

namespace metal_marlin {
namespace {

std::shared_ptr<const Model> with_adapters() {
  LoadOptions options = exact();
  const auto folder = test_data("adapters/llama-tiny-patterns");
  options.adapters = {{"one", folder, 1}, {"half", folder, 0.5}};
  return Model::load(test_data("fixtures/llama-tiny"), options);
}

std::vector<TokenId> adapted_prompt(std::size_t count) {
  std::vector<TokenId> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<TokenId>((i * 37 + 11) % 250));
  return out;
}

TEST(AdapterPages, AreFoundByTheSameAdapterAlone) {
  SessionOptions options;
  options.max_sequences = 4;
  options.cache_tokens = 512;
  options.prefix_cache = true;
  Session session(with_adapters(), options);
  const std::vector<TokenId> tokens = adapted_prompt(70);
  const auto fill = [&](const std::string& adapter) {
    const SequenceId sequence = session.open(adapter);
    session.step(std::array{SequenceInput{sequence, tokens, kNoLogits}}, {});
    session.close(sequence);
  };
  const auto found = [&](const std::string& adapter) {
    const SequenceId sequence = session.open(adapter);
    const std::int64_t length = session.reuse(sequence, tokens);
    session.close(sequence);
    return length;
  };
  fill("one");
  EXPECT_EQ(found("one"), 64);
  EXPECT_EQ(found("half"), 0);
  EXPECT_EQ(found(""), 0);
  fill("");
  EXPECT_EQ(found(""), 64);
  EXPECT_EQ(found("half"), 0);
  fill("half");
  EXPECT_EQ(found("half"), 64);
  EXPECT_EQ(found("one"), 64);
}

TEST(AdapterPages, ForksAndCopiesKeepTheirAdapter) {
  SessionOptions options;
  options.max_sequences = 3;
  options.cache_tokens = 512;
  options.prefix_cache = true;
  Session session(with_adapters(), options);
  const std::vector<TokenId> tokens = adapted_prompt(40);
  const SequenceId sequence = session.open("one");
  session.step(std::array{SequenceInput{sequence, tokens, kNoLogits}}, {});
  const SequenceId fork = session.fork(sequence);
  const SavedSequence saved = session.save(sequence);
  EXPECT_EQ(saved.adapter, "one");
  const auto next = [&](SequenceId of) {
    std::vector<float> out;
    session.step(std::array{SequenceInput{of, std::span(tokens).first(1)}},
                 [&](std::span<const LogitsRow> rows) { out.assign(rows[0].values.begin(), rows[0].values.end()); });
    return out;
  };
  const std::vector<float> expected = next(sequence);
  EXPECT_EQ(next(fork), expected);
  session.close(fork);
  const SequenceId other = session.open("half");
  expect_error(ErrorCode::kInvalidArgument, "another adapter", [&] { session.restore(other, saved); });
  session.close(other);
  const SequenceId again = session.open("one");
  session.restore(again, saved);
  EXPECT_EQ(next(again), expected);
}

std::vector<TokenId> answer(Engine& engine, const std::string& adapter, std::size_t prompt) {
  EngineRequest request;
  request.prompt = adapted_prompt(prompt);
  request.max_tokens = 12;
  request.ignore_end = true;
  request.sampler.temperature = 0;
  request.adapter = adapter;
  std::promise<std::vector<TokenId>> done;
  std::vector<TokenId> tokens;
  engine.submit(std::move(request), [&](const EngineEvent& event) {
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    if (event.is_last()) done.set_value(tokens);
  });
  return done.get_future().get();
}

TEST(AdapterRequests, OfOneStepAreAnsweredAsAlone) {
  const auto model = with_adapters();
  const std::array<std::string, 6> adapters{"one", "", "half", "", "one", "half"};
  std::array<std::vector<TokenId>, 6> alone;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    Engine engine(model);
    alone[i] = answer(engine, adapters[i], 30 + i);
    EXPECT_EQ(alone[i].size(), 12U);
  }
  EngineOptions options;
  options.parallel = 6;
  options.cache_tokens = 1024;
  Engine engine(model, options);
  for (int round = 0; round < 2; ++round) {  // the second time out of the prefix cache
    std::array<std::future<std::vector<TokenId>>, 6> together;
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      together[i] = std::async(std::launch::async, [&, i] { return answer(engine, adapters[i], 30 + i); });
    }
    for (std::size_t i = 0; i < adapters.size(); ++i) EXPECT_EQ(together[i].get(), alone[i]) << i;
  }
  EXPECT_NE(answer(engine, "one", 30), answer(engine, "", 30));
  EngineRequest unknown;
  unknown.prompt = adapted_prompt(3);
  unknown.adapter = "other";
  expect_error(ErrorCode::kInvalidArgument, "adapter is other, which was not loaded",
               [&] { engine.submit(std::move(unknown), [](const EngineEvent&) {}); });
}

// Many requests in one step: each vector is that of its own adapter.
TEST(AdapterEmbeddings, OfOneStepAreThoseOfEachAlone) {
  const auto model = with_adapters();
  const std::array<std::string, 6> adapters{"one", "", "half", "", "one", "half"};
  std::array<std::vector<std::vector<float>>, 6> alone;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    EmbedOptions options;
    options.adapter = adapters[i];
    alone[i] = embed_tokens(model, std::vector(1, adapted_prompt(20 + i)), options);
  }
  EXPECT_NE(alone[0], embed_tokens(model, std::vector(1, adapted_prompt(20))));
  Embedder embedder(model);
  std::array<std::promise<EmbeddingResult>, 6> results;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    EmbeddingRequest request;
    request.inputs = {adapted_prompt(20 + i)};
    request.adapter = adapters[i];
    embedder.submit(std::move(request), [&results, i](EmbeddingResult result) { results[i].set_value(result); });
  }
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const EmbeddingResult result = results[i].get_future().get();
    EXPECT_FALSE(result.error);
    EXPECT_EQ(result.vectors, alone[i]) << i;
  }
  EmbeddingRequest unknown;
  unknown.inputs = {adapted_prompt(3)};
  unknown.adapter = "other";
  expect_error(ErrorCode::kInvalidArgument, "adapter is other, which was not loaded",
               [&] { embedder.submit(std::move(unknown), [](const EmbeddingResult&) {}); });
}

// The layer for the next tokens has no adapter: what it guesses wrong is not taken.
TEST(AdapterRequests, AreAnsweredAlikeWithGuesses) {
  LoadOptions load = exact();
  load.threads = 1;
  load.prediction = true;
  load.adapters = {{"one", test_data("adapters/glm4-mtp-attention"), 1}};
  const auto model = Model::load(test_data("fixtures/glm4-mtp"), load);
  Engine plain(model, small(400, 1, 400));
  EngineOptions options = small(400, 1, 400);
  options.speculation.mtp = true;
  options.speculation.tokens = 3;
  options.speculation.adapt = false;
  Engine guessing(model, options);
  for (const char* const adapter : {"one", "", "one"}) {
    const std::vector<TokenId> expected = answer(plain, adapter, 40);
    EXPECT_EQ(answer(guessing, adapter, 40), expected) << adapter;
  }
  EXPECT_NE(answer(plain, "one", 40), answer(plain, "", 40));
  EXPECT_GT(guessing.stats().speculation.draft_tokens, 10);
}

}  // namespace
}  // namespace metal_marlin

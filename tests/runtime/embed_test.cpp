// Vectors against those of Hugging Face transformers' hidden states (tools/make_embedding_vectors.py), and together
// against alone.
#include "metal_marlin/embed.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <future>
#include <thread>

#include "backends/registry.h"
#include "models/golden.h"
#include "runtime/engine_testing.h"

namespace metal_marlin {
namespace {

struct EmbeddingGolden : Golden {
  explicit EmbeddingGolden(const std::string& name) : Golden(name), vectors(folder / "embeddings.safetensors") {
    const auto begins = read_tensor<std::int64_t>(vectors, "begins");
    const auto ends = read_tensor<std::int64_t>(vectors, "ends");
    for (std::size_t i = 0; i < begins.size(); ++i) inputs.emplace_back(ids.begin() + begins[i], ids.begin() + ends[i]);
  }
  // Of all inputs, one after the other.
  [[nodiscard]] std::vector<float> expected(const std::string& name) const { return read_tensor<float>(vectors, name); }

  SafetensorsFile vectors;
  std::vector<std::vector<TokenId>> inputs;
};

std::vector<float> joined(const std::vector<std::vector<float>>& vectors) {
  std::vector<float> out;
  for (const auto& vector : vectors) out.insert(out.end(), vector.begin(), vector.end());
  return out;
}

EmbedOptions embed_options(Pooling pooling, bool normalize, std::int64_t dimensions = 0, int step_tokens = 512) {
  EmbedOptions options;
  options.form = {pooling, normalize, dimensions};
  options.step_tokens = step_tokens;
  return options;
}

std::string embed_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Embed, MatchesTransformersOnEveryModelAndBackend) {
  for (const std::string& name : golden_models()) {
    const EmbeddingGolden golden(name);
    for (const std::string& backend : available_backends()) {
      LoadOptions load = exact(backend);
      load.threads = 1;  // small models: threads would wait for each other
      const auto model = Model::load(golden.folder, load);
      const auto expect = [&](const char* tensor, const EmbedOptions& options) {
        EXPECT_LT(largest_difference(joined(embed_tokens(model, golden.inputs, options)), golden.expected(tensor)),
                  tolerance(backend))
            << name << " " << backend << " " << tensor;
      };
      expect("mean", embed_options(Pooling::kMean, false));
      if (backend == "msl-host" && !is_run_in_full(name)) continue;  // as golden logits there, in short
      expect("mean", embed_options(Pooling::kMean, false, 0, 7));    // every input in pieces, several in one step
      expect("last", embed_options(Pooling::kLast, false, 0, 13));
      expect("cls", embed_options(Pooling::kCls, false, 0, 13));
      expect("mean_normalized", embed_options(Pooling::kMean, true));
      expect("last_8_normalized", embed_options(Pooling::kLast, true, 8));
    }
  }
}

TEST(Embed, AVectorIsTheSameAloneAmongOthersAndInPieces) {
  const EmbeddingGolden golden("qwen3-tiny");
  for (const bool is_exact : {true, false}) {
    LoadOptions load;
    load.exact = is_exact;
    load.threads = 1;
    const auto model = Model::load(golden.folder, load);
    const auto together = embed_tokens(model, golden.inputs, embed_options(Pooling::kMean, true));
    EXPECT_EQ(embed_tokens(model, golden.inputs, embed_options(Pooling::kMean, true, 0, 9)), together);
    for (std::size_t i = 0; i < golden.inputs.size(); ++i) {
      EXPECT_EQ(
          embed_tokens(model, std::span(golden.inputs).subspan(i, 1), embed_options(Pooling::kMean, true)).front(),
          together[i]);
    }
  }
}

TEST(Embed, MoreInputsThanPlacesAllHaveTheirVector) {
  const auto model = fixture_model("llama-tiny");
  std::vector<std::vector<TokenId>> inputs;
  for (int i = 0; i < 100; ++i) inputs.emplace_back(static_cast<std::size_t>(1 + i % 40), 3 + i);
  std::int64_t told = 0;
  EmbedOptions options = embed_options(Pooling::kLast, true, 0, 64);
  options.progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_GT(done, told);
    EXPECT_EQ(total, 1850);
    told = done;
    return true;
  };
  const auto vectors = embed_tokens(model, inputs, options);
  ASSERT_EQ(vectors.size(), inputs.size());
  for (std::size_t i : {0U, 41U, 99U}) {
    EXPECT_EQ(vectors[i], embed_tokens(model, std::span(inputs).subspan(i, 1), embed_options(Pooling::kLast, true))[0]);
  }
}

TEST(Embed, WhatIsWrongIsToldWithFigures) {
  const auto model = fixture_model("llama-tiny");
  const std::int64_t vocab = model->info().vocab;
  const auto error_of = [&](const std::vector<TokenId>& input, std::int64_t dimensions = 0, std::int64_t context = 0) {
    EmbedOptions options = embed_options(Pooling::kMean, true, dimensions);
    options.context = context;
    return embed_error([&] { static_cast<void>(embed_tokens(model, std::array{input}, options)); });
  };
  EXPECT_EQ(error_of({}), "input 0 has no tokens");
  EXPECT_EQ(error_of({3, 4, 5}, 0, 2), "input 0 has 3 tokens, the context of embeddings has 2");
  EXPECT_EQ(error_of({3, static_cast<TokenId>(vocab)}),
            "input 0: token id " + std::to_string(vocab) + " is outside the vocabulary of " + std::to_string(vocab));
  EXPECT_EQ(error_of({3}, model->info().hidden + 1), "dimensions is " + std::to_string(model->info().hidden + 1) +
                                                         ", expected 1 to the " + std::to_string(model->info().hidden) +
                                                         " that the model has");
  EmbedOptions stopped = embed_options(Pooling::kMean, true, 0, 2);
  stopped.progress = [](std::int64_t, std::int64_t) { return false; };
  EXPECT_EQ(embed_error([&] {
              static_cast<void>(embed_tokens(model, std::array{std::vector<TokenId>{3, 4, 5}}, stopped));
            }),
            "the embedding was cancelled");
}

TEST(Embed, PromptsGoBeforeTextsAndMayBeLeftOutOfTheMean) {
  const WithTokenizer made;
  const std::array<std::string, 2> texts = {"abc", "a longer text"};
  EmbedOptions options = embed_options(Pooling::kMean, false);
  options.prompt = "query: ";
  const auto with = embed(made.model, texts, options);
  options.prompt.clear();
  const std::array<std::string, 2> joined_texts = {"query: abc", "query: a longer text"};
  EXPECT_EQ(with, embed(made.model, joined_texts, options));
  // The mean of all is that of both parts, by their tokens.
  options.prompt = "query: ";
  options.include_prompt = false;
  const auto without = embed(made.model, texts, options);
  options.prompt.clear();
  const auto prompt = embed(made.model, std::array<std::string, 1>{"query: "}, options);
  for (std::size_t i = 0; i < with[0].size(); ++i)
    EXPECT_NEAR(with[0][i], (7 * prompt[0][i] + 3 * without[0][i]) / 10, 1e-5);
}

EmbeddingRequest embedding_request(std::vector<std::vector<TokenId>> inputs) {
  EmbeddingRequest request;
  request.inputs = std::move(inputs);
  return request;
}

TEST(Embedder, RequestsOfManyThreadsGetWhatEmbedGives) {
  const EmbeddingGolden golden("qwen3-tiny");
  const auto model = load_model(golden.folder);
  const auto expected = embed_tokens(model, golden.inputs, embed_options(Pooling::kMean, true));
  EmbedderOptions options;
  options.step_tokens = 24;
  options.others_wait = [] { return true; };
  Embedder embedder(model, options);
  std::vector<std::future<void>> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.push_back(std::async(std::launch::async, [&] {
      for (int round = 0; round < 5; ++round) {
        std::promise<EmbeddingResult> result;
        embedder.submit(embedding_request(golden.inputs),
                        [&](EmbeddingResult got) { result.set_value(std::move(got)); });
        const EmbeddingResult got = result.get_future().get();
        EXPECT_FALSE(got.error);
        EXPECT_EQ(got.vectors, expected);
      }
    }));
  }
  for (auto& thread : threads) thread.get();
  EXPECT_TRUE(embedder.drain(1s));
  EXPECT_EQ(embedder.stats().requests, 20);
  EXPECT_EQ(embedder.stats().open, 0);
  EXPECT_EQ(embed_error([&] { embedder.submit(embedding_request({{3}}), [](const EmbeddingResult&) {}); }),
            "the embedder ends, and takes no more requests");
}

TEST(Embedder, AShortRequestEndsBeforeALongOneThatCameFirst) {
  const auto model = fixture_model("llama-tiny");
  EmbedderOptions options;
  options.step_tokens = 64;
  Embedder embedder(model, options);
  std::atomic<int> order = 0;
  std::promise<int> long_one;
  std::promise<int> short_one;
  embedder.submit(embedding_request(std::vector<std::vector<TokenId>>(400, std::vector<TokenId>(64, 5))),
                  [&](const EmbeddingResult&) { long_one.set_value(order++); });
  embedder.submit(embedding_request({{3, 4}}), [&](const EmbeddingResult&) { short_one.set_value(order++); });
  EXPECT_EQ(short_one.get_future().get(), 0);
  EXPECT_EQ(long_one.get_future().get(), 1);
}

TEST(Embedder, CancelledRequestsEndAndLeaveTheOthersAlone) {
  const auto model = fixture_model("llama-tiny");
  EmbedderOptions options;
  options.step_tokens = 16;
  Embedder embedder(model, options);
  std::promise<EmbeddingResult> cancelled;
  std::promise<EmbeddingResult> other;
  const auto id =
      embedder.submit(embedding_request(std::vector<std::vector<TokenId>>(2000, std::vector<TokenId>(64, 5))),
                      [&](EmbeddingResult got) { cancelled.set_value(std::move(got)); });
  embedder.submit(embedding_request({{3, 4, 5}}), [&](EmbeddingResult got) { other.set_value(std::move(got)); });
  embedder.cancel(id);
  const EmbeddingResult ended = cancelled.get_future().get();
  ASSERT_TRUE(ended.error);
  EXPECT_EQ(ended.error->code(), ErrorCode::kCancelled);
  EXPECT_TRUE(ended.vectors.empty());
  EXPECT_EQ(other.get_future().get().vectors.size(), 1U);
  EXPECT_LT(embedder.stats().tokens, 2000 * 64);
}

TEST(Embedder, WhatIsOpenAtItsEndIsToldSo) {
  const auto model = fixture_model("llama-tiny");
  std::promise<EmbeddingResult> result;
  {
    EmbedderOptions options;
    options.step_tokens = 8;
    options.queue = 1;
    Embedder embedder(model, options);
    embedder.submit(embedding_request(std::vector<std::vector<TokenId>>(2000, std::vector<TokenId>(64, 5))),
                    [&](EmbeddingResult got) { result.set_value(std::move(got)); });
    EXPECT_EQ(embed_error([&] { embedder.submit(embedding_request({{3}}), [](const EmbeddingResult&) {}); }),
              "1 requests for embeddings are open, the queue holds no more");
  }
  EXPECT_TRUE(result.get_future().get().error);
}

TEST(Embedder, ACallbackThatThrowsEndsNobodyElse) {
  const auto model = fixture_model("llama-tiny");
  Embedder embedder(model);
  embedder.submit(embedding_request({{3}}), [](const EmbeddingResult&) { throw std::runtime_error("mine"); });
  std::promise<EmbeddingResult> result;
  embedder.submit(embedding_request({{3}}), [&](EmbeddingResult got) { result.set_value(std::move(got)); });
  EXPECT_FALSE(result.get_future().get().error);
}

TEST(Session, HiddenStatesCannotBeDrawnFrom) {
  SessionOptions options;
  options.hidden_states = true;
  Session session(fixture_model("llama-tiny"), options);
  const std::array<TokenId, 2> tokens = {3, 4};
  const SequenceInput input{session.open(), tokens};
  Sampler sampler{SamplerOptions{}};
  TokenId next = 0;
  const std::array<Sampler*, 1> samplers = {&sampler};
  EXPECT_EQ(embed_error([&] { session.sample(std::array{input}, samplers, std::span(&next, 1)); }),
            "sample: the session computes hidden states, and no logits to draw from");
}

}  // namespace
}  // namespace metal_marlin

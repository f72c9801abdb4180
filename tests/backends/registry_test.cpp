// Every backend that there is, as the runtime sees it: what it is asked before a model is loaded, and its runners.
#include "backends/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/shared_pool.h"
#include "models/architectures.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

class EveryBackend : public testing::TestWithParam<std::string> {
 protected:
  EveryBackend() : backend(make_backend(GetParam(), {shared_pool(2), ""})) { open("qwen3-tiny"); }

  void open(const char* name) {
    checkpoint = open_checkpoint(test_data("fixtures") / name);
    plan = build_plan(parse_model_config(checkpoint->config(), nullptr, name));
  }
  std::shared_ptr<const PreparedModel> prepare() const {
    return backend->prepare(plan, *checkpoint, {Activations::kF32, {}});
  }

  MemoryEstimate estimate(CacheType cache) const {
    return backend->estimate_memory(plan, *checkpoint, Activations::kF32, {}, cache);
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Checkpoint> checkpoint;
  Plan plan;
};
INSTANTIATE_TEST_SUITE_P(Backends, EveryBackend, testing::ValuesIn(available_backends()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// A sequence's next tokens, and the logits after the last.
std::vector<float> step(Runner& runner, const Plan& plan, std::span<const std::int32_t> tokens, std::int64_t past,
                        std::span<const std::int32_t> pages) {
  const SequenceSlice slice{0, static_cast<int>(tokens.size()), past, pages};
  const int last = slice.count - 1;
  const float* const logits = runner.step({tokens, {&slice, 1}, {&last, 1}});
  return {logits, logits + plan.width(plan.result())};
}

const std::vector<std::int32_t>& tokens() {
  static const std::vector<std::int32_t> all = [] {
    std::vector<std::int32_t> out(40);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::int32_t>(i * 37 % 150);
    return out;
  }();
  return all;
}

TEST_P(EveryBackend, TellsWhatItNeeds) {
  EXPECT_EQ(backend->name(), GetParam());
  EXPECT_FALSE(backend->device().empty());
  EXPECT_GT(backend->available_memory(), std::size_t{1} << 20);
  const MemoryEstimate f32 = estimate(CacheType::kF32);
  EXPECT_EQ(f32.cache_page,
            plan.caches.size() * static_cast<std::size_t>(plan.caches[0].heads * kCachePageTokens *
                                                          (plan.caches[0].key_dim + plan.caches[0].value_dim) * 4));
  EXPECT_EQ(estimate(CacheType::kF16).cache_page, f32.cache_page / 2);
  const auto weights = static_cast<double>(prepare()->weight_bytes());
  EXPECT_GE(static_cast<double>(f32.weights), weights);
  EXPECT_LE(static_cast<double>(f32.weights), weights * 1.03);
  expect_error(ErrorCode::kOutOfMemory, "a cache of 5 tokens needs",
               [&] { backend->require_memory(SIZE_MAX / 2, "a cache of 5 tokens"); });
}

// Tokens by ones and in lots that fill their shape or do not, across a cache that grows and pages that move.
TEST_P(EveryBackend, CachesGrowAndPagesAreCopied) {
  for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny", "gemma4"}) {
    open(name);
    const auto model = prepare();
    const std::vector<std::int32_t> in_order{0, 1, 2};
    const auto whole = model->make_runner({64, 1, 1, 3}, CacheType::kF32);
    const std::vector<float> expected = step(*whole, plan, tokens(), 0, in_order);
    const auto runner = model->make_runner({64, 1, 1, 2}, CacheType::kF32);
    step(*runner, plan, std::span(tokens()).first(19), 0, in_order);
    runner->grow_cache(7);
    step(*runner, plan, std::span(tokens()).subspan(19, 1), 19, in_order);
    runner->copy_page(0, 5);
    runner->copy_page(1, 0);
    const std::vector<std::int32_t> moved{5, 0, 6};
    const std::vector<float> found = step(*runner, plan, std::span(tokens()).subspan(20), 20, moved);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4) << name << " token " << i;
  }
}

// What is read of pages goes to others, some of it or all, and is the same to the last bit.
TEST_P(EveryBackend, PagesAreReadAndWritten) {
  for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny", "gemma4"}) {
    open(name);
    const auto model = prepare();
    std::vector<CacheType> types{CacheType::kF16, CacheType::kInt8};
    if (!plan.caches[0].latent)
      types.insert(types.end(), {CacheType::kF32, CacheType::kFp8, CacheType::kInt4, CacheType::kFp4});
    for (const CacheType type : types) {
      const auto runner = model->make_runner({64, 1, 1, 8}, type);
      const auto last = [&](const std::vector<std::int32_t>& pages) {
        return step(*runner, plan, std::span(tokens()).last(1), 39, pages);
      };
      const std::vector<std::int32_t> first{0, 1, 2};
      step(*runner, plan, std::span(tokens()).first(39), 0, first);
      const std::vector<float> expected = last(first);
      std::vector<std::byte> bytes(3 * estimate(type).cache_page);
      runner->read_pages(first, bytes);
      const std::vector<std::int32_t> moved{5, 6, 3};  // two of them are neighbours
      runner->write_pages(moved, 0, bytes);
      EXPECT_EQ(last(moved), expected) << name << " " << cache_type_name(type);
      const std::vector<std::int32_t> others{6, 3};
      step(*runner, plan, std::span(tokens()).last(32), 0, others);
      EXPECT_NE(last(moved), expected) << name << " " << cache_type_name(type);
      runner->write_pages(others, 1, bytes);
      EXPECT_EQ(last(moved), expected) << name << " " << cache_type_name(type);
    }
  }
}

TEST_P(EveryBackend, StepsOfTwoRunnersMayOverlap) {
  const auto model = prepare();
  const std::vector<std::int32_t> pages{0, 1};
  const auto one = model->make_runner({32, 1, 1, 2}, CacheType::kF32);
  const auto other = model->make_runner({32, 1, 1, 2}, CacheType::kF32);
  const std::vector<float> first = step(*one, plan, std::span(tokens()).first(9), 0, pages);
  const std::vector<float> second = step(*other, plan, std::span(tokens()).subspan(9, 11), 0, pages);
  const SequenceSlice of_one{0, 9, 0, pages};
  const SequenceSlice of_other{0, 11, 0, pages};
  const std::array<int, 2> last{8, 10};
  const Batch batch_one{std::span(tokens()).first(9), {&of_one, 1}, std::span(last).first(1)};
  const Batch batch_other{std::span(tokens()).subspan(9, 11), {&of_other, 1}, std::span(last).last(1)};
  one->submit(batch_one);
  other->submit(batch_other);
  const float* const second_again = other->wait();
  const float* const first_again = one->wait();
  EXPECT_EQ(std::vector<float>(first_again, first_again + plan.width(plan.result())), first);
  EXPECT_EQ(std::vector<float>(second_again, second_again + plan.width(plan.result())), second);
}

// A slice of a plan as calibration runs it: rows in, rows seen, rows out.
TEST_P(EveryBackend, TakesRowsAndShowsThem) {
  Plan slice;
  const BufferId x = slice.add_buffer("x", 64);
  const BufferId y = slice.add_buffer("y", 64);
  slice.ops = {InputOp{x}, ObserveOp{x, "before", 40}, AddOp{x, x}, HadamardOp{x, y, 32}, ObserveOp{x, "after", 64}};
  slice.outputs = {{kLogitsOutput, y}};
  const auto model = backend->prepare(slice, *checkpoint, {Activations::kF32, {}});
  const auto runner = model->make_runner({32, 1, 1, 2}, CacheType::kF32);
  std::vector<float> input(19 * 64);  // no whole shape
  std::iota(input.begin(), input.end(), 1.0F);
  std::map<std::string, std::vector<float>> seen;
  const Observer observer = [&](const std::string& name, const ObservedRows& rows) {
    EXPECT_EQ(rows.rows, 19);
    for (std::int64_t r = 0; r < rows.rows; ++r)
      seen[name].insert(seen[name].end(), rows.x + r * rows.stride, rows.x + r * rows.stride + rows.width);
  };
  const std::vector<std::int32_t> pages{0, 1};
  const SequenceSlice all{0, 19, 0, pages};
  Batch batch;
  batch.tokens = std::span(tokens()).first(19);
  batch.sequences = {&all, 1};
  batch.input = input.data();
  batch.observer = &observer;
  const float* const out = runner->step(batch);
  ASSERT_EQ(seen["before"].size(), 19U * 40);
  ASSERT_EQ(seen["after"].size(), 19U * 64);
  for (std::size_t r = 0; r < 19; ++r) {
    for (std::size_t i = 0; i < 40; ++i) ASSERT_EQ(seen["before"][r * 40 + i], input[r * 64 + i]);
    double sum = 0;
    for (std::size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(seen["after"][r * 64 + i], 2 * input[r * 64 + i]);
      if (i < 32) sum += 2 * static_cast<double>(input[r * 64 + i]);
    }
    EXPECT_NEAR(out[r * 64], sum / std::sqrt(32.0), 1e-3 * sum);  // the first of a rotated block
  }
}

TEST_P(EveryBackend, CountsTokensOfExperts) {
  open("qwen3-moe");
  const auto model = prepare();
  const auto runner = model->make_runner({32, 1, 1, 3, true}, CacheType::kF32);
  step(*runner, plan, std::span(tokens()).first(19), 0, std::vector<std::int32_t>{0, 1});
  const auto counts = runner->expert_counts();
  ASSERT_EQ(counts.size(), static_cast<std::size_t>(plan.layers));
  for (const Op& op : plan.ops) {
    const auto* const moe = op.as<MoeOp>();
    if (moe == nullptr) continue;
    const auto& layer = counts[static_cast<std::size_t>(op.layer)];
    EXPECT_EQ(std::accumulate(layer.begin(), layer.end(), std::int64_t{0}), 19 * moe->top_k);
  }
}

TEST(Registry, NamesWhatThereIs) {
  EXPECT_EQ(available_backends().front(), "cpu");
  expect_error(ErrorCode::kNotFound, "no backend abacus here; there are cpu", [] {
    make_backend("abacus", {shared_pool(1), ""});
  });
  expect_error(ErrorCode::kUnsupported, "sse9", [] { make_backend("cpu", {shared_pool(1), "sse9"}); });
}

}  // namespace
}  // namespace metal_marlin

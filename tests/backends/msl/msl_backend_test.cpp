// What a whole model's step takes by its batch, on the host executor: attention by tokens or by tiles of them.
#include "backends/msl/msl_backend.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "backends/msl/devices.h"
#include "backends/msl/host/host_device.h"
#include "backends/msl/paged_attention.h"
#include "base/shared_pool.h"
#include "metal_marlin/quantize.h"
#include "models/architectures.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

constexpr int kPrompt = 192;

std::vector<std::int32_t> count_up(int count, int factor = 1) {
  std::vector<std::int32_t> out;
  for (int i = 0; i < count; ++i) out.push_back(i * factor % 190);
  return out;
}

class MslBackend : public testing::TestWithParam<Activations> {};
INSTANTIATE_TEST_SUITE_P(Modes, MslBackend, testing::Values(Activations::kF32, Activations::kInt8),
                         [](const auto& test) { return test.param == Activations::kF32 ? "Exact" : "Fast"; });

// A prompt that goes by tiles, beside a sequence that goes on and tokens that fill the shape, gives the logits that it
// gives sixteen tokens at a time.
TEST_P(MslBackend, PromptsGoByTiles) {
  const bool exact = GetParam() == Activations::kF32;
  const CacheType cache = exact ? CacheType::kF32 : CacheType::kF16;
  const CacheType kv = exact ? CacheType::kF32 : CacheType::kF16;
  const auto checkpoint = open_checkpoint(test_data("fixtures") / "qwen3-tiny");
  const Plan plan = build_plan(parse_model_config(checkpoint->config(), nullptr, "qwen3-tiny"));
  const std::shared_ptr<Device> device = make_device("msl-host");
  const auto backend = make_backend("msl-host", device, shared_pool(2));
  const auto model = backend->prepare(plan, *checkpoint, {GetParam(), {}});
  const auto runner = model->make_runner({256, 2, 3, 40}, cache);
  const std::vector<std::int32_t> prompt = count_up(kPrompt, 37);
  const std::vector<std::int32_t> other = count_up(21, 11);
  const std::vector<std::int32_t> prompt_pages = count_up(12);
  const std::array<std::int32_t, 2> other_pages{30, 17};
  const std::array<std::int32_t, 12> again_pages{20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 35, 36};

  const SequenceSlice begun{0, 16, 0, other_pages};
  runner->step({std::span(other).first(16), {&begun, 1}, {}});
  std::vector<std::int32_t> tokens(other.begin() + 16, other.end());
  tokens.insert(tokens.end(), prompt.begin(), prompt.end());
  const std::array slices{SequenceSlice{0, 5, 16, other_pages}, SequenceSlice{5, kPrompt, 0, prompt_pages}};
  const std::array<int, 2> last{4, 4 + kPrompt};
  const float* const both = runner->step({tokens, slices, last});
  const std::vector<float> found(both, both + 2 * plan.width(plan.result()));

  std::vector<float> expected;
  const auto append = [&](const float* logits) {
    expected.insert(expected.end(), logits, logits + plan.width(plan.result()));
  };
  const SequenceSlice ended{0, 5, 16, other_pages};
  append(runner->step({std::span(other).last(5), {&ended, 1}, std::span(last).first(1)}));
  const int sixteenth = 15;
  for (int begin = 0; begin < kPrompt; begin += 16) {
    const SequenceSlice chunk{0, 16, begin, again_pages};
    const bool wanted = begin + 16 == kPrompt;
    const float* const logits = runner->step({std::span(prompt).subspan(static_cast<std::size_t>(begin), 16),
                                              {&chunk, 1},
                                              {&sixteenth, wanted ? std::size_t{1} : std::size_t{0}}});
    if (wanted) append(logits);
  }
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], exact ? 1e-4 : 2e-2) << i;

  // Both ways were taken.
  const auto& op = *plan.find<AttentionOp>();
  PagedParams p;
  p.heads = to_u32(op.heads);
  p.kv_heads = to_u32(op.kv_heads);
  p.key_dim = p.value_dim = to_u32(op.head_dim);
  p.rounded = exact ? 0 : 1;
  p.splits = paged_splits(*device, p, DType::kF32, kv, 208, 32);
  EXPECT_TRUE(tiles_cost_less(*device, p, kv, slices));
  p.splits = paged_splits(*device, p, DType::kF32, kv, 16, 32);
  EXPECT_FALSE(tiles_cost_less(*device, p, kv, {&begun, 1}));
}

// A host device that adds up what it is asked for.
class CountingDevice final : public Device {
 public:
  [[nodiscard]] std::string name() const override { return host_->name(); }
  std::unique_ptr<Buffer> allocate(std::size_t size) override {
    bytes += size;
    return host_->allocate(size);
  }
  std::unique_ptr<Commands> commands() override { return host_->commands(); }

  std::size_t bytes = 0;

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                          const FunctionConstants& constants) override {
    return make_host_pipeline(*shader.library, kernel, constants);
  }

 private:
  std::unique_ptr<Device> host_ = make_device("msl-host");
};

// What is estimated is never less than what a model and a runner allocate, and at most a twentieth more.
TEST(MslMemory, IsEstimated) {
  const TemporaryFolder work;
  std::vector<std::filesystem::path> models;
  for (const char* const name : {"llama-bias-linear", "qwen3-tiny", "qwen3-moe", "glm4-moe-lite-tiny"})
    models.push_back(test_data("fixtures") / name);
  for (const FormatSpec& spec : {default_spec(Format::kNvfp4), FormatSpec{Format::kInt3, 16},
                                 FormatSpec{Format::kU4, 64, ScaleType::kF16, ZeroKind::kMinimum}}) {
    for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny"}) {
      models.push_back(work.path() / std::to_string(models.size()));
      QuantizeOptions options;
      options.spec = spec;
      quantize(test_data("fixtures") / name, models.back(), options);
    }
  }
  RunnerLimits limits;
  limits.tokens = 100;
  limits.selected = 16;
  limits.sequences = 3;
  limits.pages = 70;
  for (const auto& path : models) {
    const auto checkpoint = open_checkpoint(path);
    const Plan plan = build_plan(parse_model_config(checkpoint->config(), nullptr, "config"));
    for (const Activations activations : {Activations::kInt8, Activations::kF32}) {
      const auto device = std::make_shared<CountingDevice>();
      device->matrix_unit();  // asks with buffers that it frees
      device->bytes = 0;
      const auto backend = make_backend("msl-host", device, shared_pool(2));
      const MemoryEstimate estimate =
          backend->estimate_memory(plan, *checkpoint, activations, limits, CacheType::kInt8);
      EXPECT_EQ(device->bytes, 0U);
      const auto model = backend->prepare(plan, *checkpoint, {activations, {}});
      EXPECT_GE(estimate.weights, device->bytes) << path;
      EXPECT_LE(static_cast<double>(estimate.weights), 1.05 * static_cast<double>(device->bytes)) << path;
      device->bytes = 0;
      const auto runner = model->make_runner(limits, CacheType::kInt8);
      EXPECT_EQ(estimate.workspace + 70 * estimate.cache_page, device->bytes) << path;
    }
  }
}

}  // namespace
}  // namespace metal_marlin::msl

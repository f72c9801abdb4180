// Plans compiled for the CPU: what shares memory, and steps that allocate none.
#include "backends/cpu/program.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "allocations.h"
#include "backends/registry.h"
#include "base/shared_pool.h"
#include "models/architectures.h"
#include "test_data.h"

namespace metal_marlin::cpu {
namespace {

constexpr std::array kModels = {"llama-tiny", "qwen3-tiny", "qwen3-moe", "glm4-groups"};

struct Opened {
  explicit Opened(const char* name)
      : checkpoint(open_checkpoint(test_data("fixtures") / name)),
        plan(build_plan(parse_model_config(checkpoint->config(), nullptr, name))) {}
  std::unique_ptr<Checkpoint> checkpoint;
  Plan plan;
};

TEST(Program, BuffersLieApartWhileBothAreUsed) {
  for (const char* const name : kModels) {
    const Opened model(name);
    const Program program =
        compile(model.plan, *model.checkpoint, *shared_pool(1), *available_kernels().front(), Activations::kF32, {});
    EXPECT_LT(program.steps.size(), model.plan.ops.size()) << name;  // some are fused
    RunnerLimits limits;
    limits.tokens = 33;
    limits.selected = 5;
    const WorkspaceLayout layout = lay_out(program, limits);
    ASSERT_EQ(layout.offsets.size(), model.plan.buffers.size());
    std::int64_t apart = 0;
    const auto size = [&](std::size_t i) {
      const Buffer& buffer = model.plan.buffers[i];
      return buffer.width * (buffer.selected ? limits.selected : limits.tokens);
    };
    for (std::size_t i = 0; i < layout.offsets.size(); ++i) {
      if (layout.offsets[i] < 0) continue;
      EXPECT_LE(layout.offsets[i] + size(i), layout.floats);
      EXPECT_EQ(layout.offsets[i] % 16, 0);
      apart += size(i);
    }
    EXPECT_LT(layout.floats, apart) << name << ": nothing shares memory";
    // A residual is added to the hidden state by the product before it: what it reads and it lie apart.
    for (const Step& step : program.steps) {
      const auto* const linear = std::get_if<LinearStep>(&step);
      if (linear == nullptr) continue;
      const auto in = static_cast<std::size_t>(linear->in);
      for (const LinearPart& part : linear->parts) {
        const auto out = static_cast<std::size_t>(part.out);
        EXPECT_TRUE(layout.offsets[in] + size(in) <= layout.offsets[out] ||
                    layout.offsets[out] + size(out) <= layout.offsets[in])
            << name;
      }
    }
  }
}

TEST(Program, StepsAllocateNothing) {
  for (const char* const name : kModels) {
    const Opened opened(name);
    const auto backend = make_backend("cpu", {shared_pool(2), ""});
    const auto model = backend->prepare(opened.plan, *opened.checkpoint, {});
    const auto runner = model->make_runner({32, 2, 2, 8}, CacheType::kF16);
    const std::vector<std::int32_t> pages{0, 1, 2, 3, 4, 5};
    std::vector<std::int32_t> tokens(32);
    std::iota(tokens.begin(), tokens.end(), 7);
    std::int64_t past = 0;
    for (const int count : {32, 1, 2, 20}) {
      const SequenceSlice slice{0, count, past, pages};
      const int last = count - 1;
      const Batch batch{std::span(tokens).first(static_cast<std::size_t>(count)), {&slice, 1}, {&last, 1}};
      const std::int64_t before = allocations();
      runner->step(batch);
      EXPECT_EQ(allocations(), before) << name << ", " << count << " tokens";
      past += count;
    }
  }
}

// What is estimated of a model and a runner, and what both allocate.
TEST(Program, EstimatesWhatItTakes) {
  // Of names, steps and the allocator, which no estimate counts.
#if defined(__SANITIZE_THREAD__)  // whose allocator counts the whole of a size class
  constexpr std::size_t kBookkeeping = std::size_t{512} << 10;
#else
  constexpr std::size_t kBookkeeping = std::size_t{160} << 10;
#endif
  RunnerLimits limits;
  limits.selected = 16;
  limits.sequences = 3;
  limits.pages = 70;
  for (const char* const name : {"llama-tiny", "qwen3-tiny", "qwen3-moe", "glm4-groups", "glm4-moe-lite-tiny"}) {
    for (const Activations activations : {Activations::kInt8, Activations::kF32}) {
      const Opened opened(name);
      const auto backend = make_backend("cpu", {shared_pool(2), ""});
      const MemoryEstimate estimate =
          backend->estimate_memory(opened.plan, *opened.checkpoint, activations, limits, CacheType::kInt8);
      const std::size_t before = allocated_bytes();
      const auto model = backend->prepare(opened.plan, *opened.checkpoint, {activations, {}});
      EXPECT_EQ(model->weight_bytes(), estimate.weights) << name;
      EXPECT_EQ(model->workspace_bytes(limits, CacheType::kInt8), estimate.workspace) << name;
      const auto runner = model->make_runner(limits, CacheType::kInt8);
      const std::size_t found = allocated_bytes() - before;
      const std::size_t estimated = estimate.weights + estimate.workspace + 70 * estimate.cache_page;
      EXPECT_GE(estimated + kBookkeeping, found) << name;
      EXPECT_LE(estimated, found) << name;
    }
  }
}

}  // namespace
}  // namespace metal_marlin::cpu

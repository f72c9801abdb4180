#include "runtime/engine_plan.h"

#include <gtest/gtest.h>

#include "test_data.h"

namespace metal_marlin {
namespace {

ModelInfo model_info() {
  ModelInfo out;
  out.vocab = 1000;
  out.hidden = 64;
  out.max_positions = 8192;
  out.kv_cache = "f16";
  return out;
}

constexpr std::size_t kMiB = std::size_t{1} << 20;
// A page of 16 tokens takes 16 KiB: a MiB holds 1024 tokens. Steps take 64 KiB a sequence.
EngineMemory memory_of(std::size_t mib) {
  return {mib * kMiB, 16384, INT32_MAX, [](int parallel) { return static_cast<std::size_t>(parallel) << 16; },
          false,      0};
}

TEST(EnginePlan, ALotOfMemoryHoldsTheModelsContextManyTimes) {
  const EnginePlan plan = plan_engine(model_info(), memory_of(100000), {});
  EXPECT_EQ(plan.context, 8192);
  EXPECT_EQ(plan.parallel, 64);
  EXPECT_EQ(plan.cache_tokens, 64 * 8192);
  EXPECT_EQ(
      plan.text(),
      "context 8192 tokens, up to 64 sequences at a time, cache 524288 tokens in f16 (512.0 MiB of 97.7 GiB free)");
}

TEST(EnginePlan, LittleMemoryShortensTheContext) {
  const EnginePlan plan = plan_engine(model_info(), memory_of(10), {});
  EXPECT_LT(plan.context, 0.6 * 10 * 1024);
  EXPECT_GT(plan.context, 0.5 * 5 * 1024);
  EXPECT_EQ(plan.context, plan.cache_tokens);
  EXPECT_EQ(plan.parallel, 1);
  EXPECT_EQ(plan.cache_tokens % 16, 0);
}

TEST(EnginePlan, WhatIsAskedForIsTakenOrRefusedWithTheFigures) {
  EngineOptions options;
  options.context = 2000;
  options.parallel = 3;
  options.cache_tokens = 4000;
  const EnginePlan plan = plan_engine(model_info(), memory_of(100), options);
  EXPECT_EQ(plan.context, 2000);
  EXPECT_EQ(plan.parallel, 3);
  EXPECT_EQ(plan.cache_tokens, 4000);
  EXPECT_EQ(plan.cache_bytes, 250U * 16384);
  expect_error(ErrorCode::kOutOfMemory, "a cache of 4000 tokens needs 3.9 MiB; of 4.0 MiB free there is room for ",
               [&] { plan_engine(model_info(), memory_of(4), options); });
  options.cache_tokens = 1000;
  expect_error(ErrorCode::kInvalidArgument, "context is 2000, expected no more than cache_tokens, 1000",
               [&] { plan_engine(model_info(), memory_of(100), options); });
  options = {};
  options.context = 9000;
  expect_error(ErrorCode::kInvalidArgument, "context is 9000, expected 0 to the 8192 that the model has",
               [&] { plan_engine(model_info(), memory_of(100), options); });
  options.context = 8192;
  expect_error(ErrorCode::kOutOfMemory, "a context of 8192 tokens needs 8.0 MiB",
               [&] { plan_engine(model_info(), memory_of(9), options); });
  options = {};
  options.parallel = 512;
  expect_error(ErrorCode::kInvalidArgument, "step_tokens is 512, expected more than parallel",
               [&] { plan_engine(model_info(), memory_of(100), options); });
  expect_error(ErrorCode::kOutOfMemory, "a context of 16 tokens", [&] { plan_engine(model_info(), memory_of(0), {}); });
}

TEST(EnginePlan, WhatStepsWorkInIsLeftFree) {
  EngineOptions options;
  options.parallel = 16;  // a MiB of the three
  const EnginePlan plan = plan_engine(model_info(), memory_of(3), options);
  EXPECT_EQ(plan.cache_tokens, static_cast<std::int64_t>(0.6 * 2 * 64) * 16);
  options.parallel = 48;
  expect_error(ErrorCode::kOutOfMemory, "a context of 16 tokens",
               [&] { plan_engine(model_info(), memory_of(3), options); });
}

TEST(EnginePlan, MemoryToSwapToIsWhatTheProcessorHas) {
  EngineMemory memory = memory_of(100000);
  EngineOptions options;
  EXPECT_EQ(plan_engine(model_info(), memory, options).swap_bytes, 0U);
  options.swap_bytes = 5;
  expect_error(ErrorCode::kInvalidArgument, "swap_bytes is 5, expected 0, as this backend's caches lie in the memory",
               [&] { plan_engine(model_info(), memory, options); });
  memory.apart = true;
  memory.processor = 100000 * kMiB;
  EXPECT_EQ(plan_engine(model_info(), memory, {}).swap_bytes, 0U);
  options.swap_bytes = 4096 * kMiB;
  const EnginePlan plan = plan_engine(model_info(), memory, options);
  EXPECT_EQ(plan.swap_bytes, 4096 * kMiB);
  EXPECT_TRUE(plan.text().ends_with("free), 4.0 GiB of the processor's memory to swap to")) << plan.text();
  options.swap_bytes = 200000 * kMiB;
  expect_error(ErrorCode::kOutOfMemory, "the memory that sequences are swapped to",
               [&] { plan_engine(model_info(), memory, options); });
}

}  // namespace
}  // namespace metal_marlin

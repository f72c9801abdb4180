// Models whose keys and values are quantized.
#include <gtest/gtest.h>

#include <algorithm>

#include "backends/registry.h"
#include "metal_marlin/error.h"
#include "metal_marlin/model.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

// The logits after some tokens, the last of them one at a time, so that all before are read from the cache.
std::vector<float> decoded_logits(const char* model, const std::string& cache, const std::string& backend) {
  LoadOptions load;
  load.exact = true;
  load.kv_cache = cache;
  load.backend = backend;
  load.threads = 2;
  const auto loaded = Model::load(fixture(model), load);
  EXPECT_EQ(loaded->info().kv_cache, cache);
  Session session(loaded, {1, 64, 64, 1});
  const SequenceId sequence = session.open();
  std::vector<float> out;
  for (int i = 0; i < 24; ++i) {
    const std::vector<TokenId> id{3 + i * 37 % 180};
    session.step(std::array{SequenceInput{sequence, id}}, [&](std::span<const LogitsRow> rows) {
      out.assign(rows.back().values.begin(), rows.back().values.end());
    });
  }
  return out;
}

struct CacheCase {
  const char* type;
  double most;  // error of the logits
};
class QuantizedCache : public testing::TestWithParam<CacheCase> {};
// Half a step of a code over the root mean square of what it holds, of keys and of values at each of three
// layers, which add up as squares; twice that, for tiny models are rough.
INSTANTIATE_TEST_SUITE_P(Types, QuantizedCache,
                         testing::Values(CacheCase{"f16", 0.002}, CacheCase{"int8", 0.04}, CacheCase{"fp8", 0.1},
                                         CacheCase{"int4", 0.6}, CacheCase{"fp4", 0.6}),
                         [](const auto& test) { return std::string(test.param.type); });

TEST_P(QuantizedCache, GivesNearlyTheSameLogitsOnEveryBackend) {
  for (const char* const model : {"qwen3-tiny", "llama-tiny", "glm4-moe-lite-tiny"}) {
    const std::vector<float> expected = decoded_logits(model, "f32", "cpu");
    const std::vector<float> found = decoded_logits(model, GetParam().type, "cpu");
    const double error = relative_error(found, expected);
    EXPECT_LT(error, GetParam().most) << model;
    EXPECT_GT(error, 0) << model;
    // The codes are the same. Latent attention on the CPU begins a sequence without its cache.
    const double apart = std::string(model) == "glm4-moe-lite-tiny" ? GetParam().most : 2e-3;
    for (const std::string& backend : available_backends())
      EXPECT_LT(relative_error(decoded_logits(model, GetParam().type, backend), found), apart) << model << backend;
  }
}

TEST(QuantizedCache, NamesAreChecked) {
  LoadOptions load;
  load.kv_cache = "int5";
  expect_error(ErrorCode::kInvalidArgument, "cache of int5: expected one of f16, f32, fp8, int8, int4, fp4",
               [&] { Model::load(fixture("qwen3-tiny"), load); });
}

}  // namespace
}  // namespace metal_marlin

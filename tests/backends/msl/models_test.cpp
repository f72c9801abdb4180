// Whole models as only the shaders' devices can run them: under every detector, and held to Metal's rules.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "backends/msl/executors.h"
#include "backends/msl/recorded_metal.h"
#include "metal_marlin/quantize.h"
#include "models/golden.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

std::string name_of_model(const testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// Whole models under every detector of the host executor, in builds that have them: a prompt, then token by token.
std::vector<std::string> models_under_detectors() {
  if (!msl::has_detectors()) return {};
  return {"qwen3-tiny", "llama-tiny", "glm4-moe-lite-tiny", "qwen3-moe"};
}

class ModelUnderDetectors : public testing::TestWithParam<std::string> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ModelUnderDetectors);
INSTANTIATE_TEST_SUITE_P(Fixtures, ModelUnderDetectors, testing::ValuesIn(models_under_detectors()), name_of_model);

TEST_P(ModelUnderDetectors, HasNoFault) {
  const Golden golden(GetParam());
  const std::string debug = "msl-host-debug";
  const auto logits = [&](LoadOptions options, const std::string& on, std::size_t tokens, std::size_t chunk) {
    options.backend = on;
    return logits_in_chunks(Model::load(golden.folder, options), std::span(golden.ids).first(tokens), chunk);
  };
  const std::size_t prompt = 57;  // a tile of queries, then a part of one over pages
  const std::size_t vocab = golden.logits.size() / golden.ids.size();
  const std::vector<float> expected(golden.logits.begin(),
                                    golden.logits.begin() + static_cast<std::ptrdiff_t>(prompt * vocab));
  EXPECT_LT(largest_difference(logits(exact(), debug, prompt, 40), expected), tolerance(debug));
  EXPECT_EQ(logits({}, debug, 17, 12), logits({}, "msl-host", 17, 12));
  EXPECT_EQ(logits({}, debug, 3, 1), logits({}, "msl-host", 3, 1));
}

// Models of quantized weights, by the named recipes.
std::vector<std::string> quantized_under_detectors() {
  if (!msl::has_detectors()) return {};
  return {"glm4-moe-lite-tiny", "glm4-groups", "qwen3-moe", "qwen3-tiny"};
}

class QuantizedUnderDetectors : public testing::TestWithParam<std::string> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(QuantizedUnderDetectors);
INSTANTIATE_TEST_SUITE_P(Fixtures, QuantizedUnderDetectors, testing::ValuesIn(quantized_under_detectors()),
                         name_of_model);

TEST_P(QuantizedUnderDetectors, RunAsTheirDecodedWeightsDo) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.recipe = GetParam() == "qwen3-tiny" ? "qwen3-4b" : "glm-4.7-flash";
  quantize(fixture(GetParam().c_str()), folder.path() / "quantized", options);
  write_decoded(folder.path() / "quantized", folder.path() / "decoded");
  EXPECT_LT(relative_error(last_logits(folder.path() / "quantized", true, "msl-host-debug"),
                           last_logits(folder.path() / "decoded", true)),
            5e-6);
}

#if METAL_MARLIN_RECORDED_METAL
// The Metal device, whose every call is held to Metal's rules and run on the host executor (recorded_metal.h).
class ModelOnRecordedMetal : public testing::TestWithParam<std::string> {};
// And one of each op that those have not.
std::vector<std::string> recorded_models() {
  std::vector<std::string> models{"cohere2", "gemma2", "glm4", "ministral3"};
  for (const std::string& model : golden_models()) {
    if (is_run_in_full(model)) models.push_back(model);
  }
  return models;
}
INSTANTIATE_TEST_SUITE_P(Fixtures, ModelOnRecordedMetal, testing::ValuesIn(recorded_models()), name_of_model);

TEST_P(ModelOnRecordedMetal, KeepsMetalsRules) {
  const Golden golden(GetParam());
  const auto vocab = golden.logits.size() / golden.ids.size();
  const auto logits = [&](LoadOptions options, const char* on, std::size_t tokens, std::size_t chunk) {
    options.backend = on;
    return logits_in_chunks(Model::load(golden.folder, options), std::span(golden.ids).first(tokens), chunk);
  };
  const std::vector<float> few(golden.logits.begin(), golden.logits.begin() + static_cast<std::ptrdiff_t>(5 * vocab));
  EXPECT_LT(largest_difference(logits(exact(), msl::kRecordedMetal, golden.ids.size(), 40), golden.logits), 1e-4);
  EXPECT_LT(largest_difference(logits(exact(), msl::kRecordedMetal, 5, 1), few), 1e-4);
  EXPECT_GT(msl::recorded_command_buffers(), 5 * 2);  // several a step
  EXPECT_LT(largest_difference(logits({}, msl::kRecordedMetal, 17, 12), logits({}, "msl-host", 17, 12)), 1e-2);
}
#endif

}  // namespace
}  // namespace metal_marlin

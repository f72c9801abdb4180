// The layer for the next tokens against values of tools/make_model_fixtures.py.
#include <gtest/gtest.h>

#include "models/golden.h"
#include "models/prediction_states.h"

namespace metal_marlin {
namespace {

// Layers of latent and of ordinary attention.
class PredictionGolden : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Fixtures, PredictionGolden, testing::Values("glm4-mtp", "glm4-moe"), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(PredictionGolden, LogitsMatchTheReferenceOnEveryBackend) {
  const Golden golden(GetParam());
  const std::vector<float> expected = read_tensor<float>(golden.file, "prediction");
  const std::vector<float> next = read_tensor<float>(golden.file, "prediction_next");
  for (const std::string& backend : available_backends()) {
    const PredictionStates found = prediction_states(golden.folder, golden.ids, backend);
    EXPECT_LT(largest_difference(found.logits, expected), tolerance(backend)) << backend;
    EXPECT_LT(largest_difference(found.next, next), tolerance(backend)) << backend;
    EXPECT_EQ(found.layer_bytes_alone - found.layer_bytes, 2U * 256 * 64 * 2) << backend;  // embedding and head, bf16
  }
}

TEST(Prediction, ChangesNoLogitsOfTheModel) {
  const Golden golden("glm4-mtp");
  LoadOptions options = exact();
  const std::vector<float> without = logits_in_chunks(Model::load(golden.folder, options), golden.ids, 7);
  options.prediction = true;
  const auto model = Model::load(golden.folder, options);
  EXPECT_EQ(logits_in_chunks(model, golden.ids, 7), without);
  EXPECT_EQ(model->info().prediction_layers, 1);
  EXPECT_GT(model->info().weight_bytes, Model::load(golden.folder, exact())->info().weight_bytes);
  EXPECT_EQ(Model::load(test_data("fixtures/llama-tiny"), options)->info().prediction_layers, 0);
}

}  // namespace
}  // namespace metal_marlin

#include "models/architectures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "io/checkpoint.h"
#include "models/config.h"
#include "ops/op_traits.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

class Architectures : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Fixtures, Architectures,
                         testing::Values("llama-tiny", "qwen3-tiny", "qwen3-moe", "glm4-moe-lite-tiny", "qwen2", "phi3",
                                         "gemma2", "gemma3", "olmo2", "olmo3", "smollm3", "granite", "glm4", "exaone4",
                                         "seed-oss", "cohere2", "gpt-oss", "gpt-oss-mxfp4"),
                         [](const auto& fixture) {
                           std::string name = fixture.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// A plan's weights are its checkpoint's: every one of them, once, in the shape that it has there.
TEST_P(Architectures, TakeTheWeightsOfTheirCheckpoint) {
  const auto checkpoint = open_checkpoint(test_data(std::string("fixtures/") + GetParam()));
  const ModelConfig config = parse_model_config(checkpoint->config(), nullptr, checkpoint->where());
  const Plan plan = build_plan(config);
  std::set<std::string> planned;
  for (const PlannedWeight& weight : planned_weights(plan)) {
    EXPECT_TRUE(planned.insert(weight.name).second) << weight.name << " twice";
    EXPECT_NO_THROW(checkpoint->require(weight.name, weight.shape));
  }
  for (const WeightInfo& weight : checkpoint->weights()) EXPECT_EQ(planned.count(weight.name), 1) << weight.name;
}

// What an op reads was written before, and each layer has one attention.
TEST_P(Architectures, WriteBuffersBeforeTheyReadThem) {
  const auto checkpoint = open_checkpoint(test_data(std::string("fixtures/") + GetParam()));
  const ModelConfig config = parse_model_config(checkpoint->config(), nullptr, checkpoint->where());
  const Plan plan = build_plan(config);
  std::set<BufferId> written;
  for (const Op& op : plan.ops) {
    for (const BufferId id : read_buffers(op)) EXPECT_EQ(written.count(id), 1) << describe(op);
    for (const BufferId id : written_buffers(op)) written.insert(id);
    EXPECT_LT(op.layer, config.layers);
  }
  for (const auto& [name, id] : plan.outputs) EXPECT_EQ(written.count(id), 1) << name;
}

}  // namespace
}  // namespace metal_marlin

#include "metal_marlin/inspect.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/text_file.h"
#include "metal_marlin/model.h"
#include "metal_marlin/quantize.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

// As many bytes as the prepared weights have, but for a few percent.
void expect_estimate(const std::filesystem::path& folder) {
  const Inspection inspection = inspect(folder);
  ASSERT_TRUE(inspection.memory) << inspection.not_run;
  const auto loaded = static_cast<double>(Model::load(folder)->info().weight_bytes);
  EXPECT_NEAR(static_cast<double>(inspection.memory->weights), loaded, 0.03 * loaded) << folder;
}

TEST(Inspect, SaysWhatTheWeightsTakeInMemory) {
  for (const auto& fixture : std::filesystem::directory_iterator(test_data("fixtures")))
    expect_estimate(fixture.path());
}

TEST(Inspect, SaysItOfQuantizedModelsToo) {
  const TemporaryFolder work;
  for (const char* const name : {"llama-tiny", "qwen3-moe"}) {
    quantize(test_data("fixtures") / name, work.path() / name, {});
    expect_estimate(work.path() / name);
  }
}

TEST(Inspect, SaysWhatATokenTakesInTheCache) {
  const Inspection inspection = inspect(test_data("fixtures/llama-tiny"));
  const auto config = nlohmann::json::parse(inspection.config_json);
  const int heads = config["num_key_value_heads"];
  const int dim = config.value("head_dim", config["hidden_size"].get<int>() / config["num_attention_heads"].get<int>());
  const int layers = config["num_hidden_layers"];
  ASSERT_TRUE(inspection.memory);
  EXPECT_EQ(inspection.memory->cache_token, 2 * layers * heads * dim * 2);
}

TEST(Inspect, SaysWhyAModelCannotBeRun) {
  const TemporaryFolder work;
  const auto folder = work.path() / "other";
  std::filesystem::copy(test_data("fixtures/llama-tiny"), folder);
  auto config = nlohmann::json::parse(read_text_file(folder / "config.json"));
  config["model_type"] = "gizmo";
  std::filesystem::remove(folder / "config.json");
  std::ofstream(folder / "config.json") << config.dump();
  const Inspection inspection = inspect(folder);
  EXPECT_EQ(inspection.architecture, "gizmo");
  EXPECT_FALSE(inspection.tensors.empty());
  EXPECT_FALSE(inspection.memory);
  EXPECT_NE(inspection.not_run.find("gizmo"), std::string::npos) << inspection.not_run;
}

TEST(Status, NamesWhatThereIs) {
  const Status all = status();
  EXPECT_EQ(all.version, version());
  EXPECT_EQ(all.backends.front(), "cpu");
  EXPECT_EQ(all.instruction_sets.back(), "plain");
  EXPECT_GE(all.threads, 1);
  EXPECT_NE(std::find(all.formats.begin(), all.formats.end(), "nvfp4"), all.formats.end());
  EXPECT_NE(std::find(all.architectures.begin(), all.architectures.end(), "qwen3"), all.architectures.end());
}

}  // namespace
}  // namespace metal_marlin

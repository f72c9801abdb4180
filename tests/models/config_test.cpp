// config.json: windows and bounds.
#include "models/config.h"

#include <gtest/gtest.h>

#include "models/configs.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(Windows, AreTheReferences) {
  using Windows = std::vector<std::int64_t>;
  Json qwen = config_of("qwen3");
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(with(qwen, "sliding_window", 4).windows, (Windows{0, 0, 0, 0}));  // from the 28th layer on
  qwen["max_window_layers"] = 2;
  EXPECT_EQ(with(qwen, "sliding_window", 4).windows, (Windows{0, 0, 4, 4}));
  EXPECT_EQ(with(qwen, "num_hidden_layers", 4).windows, (Windows{0, 0, 4096, 4096}));
  EXPECT_EQ(with(qwen, "sliding_window", nullptr).windows, (Windows{0, 0, 0, 0}));
  EXPECT_EQ(with(config_of("qwen3"), "sliding_window", 4).windows, (Windows{0, 0, 0, 0}));
  Json moe = config_of("qwen3_moe");
  moe.update({{"num_experts", 4},
              {"num_experts_per_tok", 2},
              {"moe_intermediate_size", 8},
              {"use_sliding_window", true},
              {"max_window_layers", 2}});
  EXPECT_EQ(with(moe, "sliding_window", 4).windows, (Windows{4, 4, 4, 4}));
  Json llama = config_of("llama");
  llama["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  expect_error(ErrorCode::kCorruptFile, "layer_types", [&] { with(llama, "sliding_window", 4); });
}

TEST(ConfigSizes, AreBoundedTogether) {
  Json moe = config_of("qwen3_moe");
  moe.update({{"num_experts", 65536}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 8}});
  expect_error(ErrorCode::kCorruptFile, "num_hidden_layers", [&] { with(moe, "num_hidden_layers", 4096); });
}

}  // namespace
}  // namespace metal_marlin

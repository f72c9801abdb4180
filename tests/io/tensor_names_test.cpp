#include "io/tensor_names.h"

#include <gtest/gtest.h>

#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(TensorNames, HaveTheModelAroundThemOnce) {
  for (const auto& [name, full] : std::initializer_list<std::pair<const char*, const char*>>{
           {"norm.weight", "model.norm.weight"},
           {"embed_tokens.weight", "model.embed_tokens.weight"},
           {"layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"},
           {"model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"},
           {"model.model.norm.weight", "model.norm.weight"},
           {"model.lm_head.weight", "lm_head.weight"},
           {"lm_head.weight", "lm_head.weight"},
           {"model.visual.norm.weight", "model.visual.norm.weight"},
           {"model.model.visual.weight", "model.model.visual.weight"},
           {"visual.layers.0.weight", "visual.layers.0.weight"},
           {"model.language_model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"},
           {"language_model.model.norm.weight", "model.norm.weight"},
           {"language_model.lm_head.weight", "lm_head.weight"},
           {"norms", "norms"},
           {"model.layers.3.block_sparse_moe.gate.weight", "model.layers.3.mlp.gate.weight"},
           {"model.layers.3.block_sparse_moe.experts.7.w1.weight", "model.layers.3.mlp.experts.7.gate_proj.weight"},
           {"layers.3.block_sparse_moe.experts.7.w2.qweight", "model.layers.3.mlp.experts.7.down_proj.qweight"},
           {"model.layers.3.block_sparse_moe.experts.7.w3.weight", "model.layers.3.mlp.experts.7.up_proj.weight"},
           {"model.layers.3.block_sparse_moe.experts.gate_up_proj", "model.layers.3.mlp.experts.gate_up_proj"},
           {"model.layers.3.block_sparse_moe.e_score_correction_bias",
            "model.layers.3.mlp.gate.e_score_correction_bias"},
           {"model.layers.3.mlp.e_score_correction_bias", "model.layers.3.mlp.gate.e_score_correction_bias"},
           {"model.layers.3.mlp.gate.e_score_correction_bias", "model.layers.3.mlp.gate.e_score_correction_bias"},
           {"model.layers.3.mlp.w1.weight", "model.layers.3.mlp.w1.weight"},
           {"block_sparse_moe.gate.weight", "block_sparse_moe.gate.weight"}}) {
    EXPECT_EQ(full_name(name), full);
  }
}

TEST(ExpertWeights, AreAMatrixForEach) {
  std::vector<float> values(3 * 4 * 2);  // 3 experts, 2 rows of gate_proj before 2 of up_proj
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const DenseView view{DType::kF32, {3, 4, 2}, std::as_bytes(std::span(values))};
  const auto first = [](const DenseView& part) {
    float value = 0;
    convert_to_f32(part.dtype, part.bytes, 0, 1, &value);
    return value;
  };
  const auto both = expert_weights("model.layers.1.mlp.experts.gate_up_proj", view, "f");
  ASSERT_EQ(both.size(), 6U);
  EXPECT_EQ(both[2].first, "model.layers.1.mlp.experts.1.gate_proj.weight");
  EXPECT_EQ(both[5].first, "model.layers.1.mlp.experts.2.up_proj.weight");
  EXPECT_EQ(both[5].second.shape, (Shape{2, 2}));
  EXPECT_EQ(first(both[2].second), 8);
  EXPECT_EQ(first(both[5].second), 20);
  const auto down = expert_weights("model.layers.1.mlp.experts.down_proj", view, "f");
  ASSERT_EQ(down.size(), 3U);
  EXPECT_EQ(down[2].first, "model.layers.1.mlp.experts.2.down_proj.weight");
  EXPECT_EQ(down[2].second.shape, (Shape{4, 2}));
  EXPECT_EQ(first(down[2].second), 16);
  EXPECT_EQ(expert_weights("model.layers.1.mlp.experts.0.down_proj.weight", view, "f").size(), 1U);
}

TEST(ExpertWeights, OfOtherFormsAreRefused) {
  const std::vector<std::byte> bytes(48);
  for (const DenseView& view : {DenseView{DType::kU8, {2, 4, 6}, bytes}, DenseView{DType::kF16, {4, 6}, bytes},
                                DenseView{DType::kF16, {8, 3, 1}, bytes}, DenseView{DType::kF16, {1 << 30, 0, 2}, {}},
                                DenseView{DType::kF16, {0, 2, 2}, {}}}) {
    expect_error(ErrorCode::kUnsupported, "f: tensor model.layers.0.mlp.experts.gate_up_proj: found",
                 [&] { expert_weights("model.layers.0.mlp.experts.gate_up_proj", view, "f"); });
  }
}

}  // namespace
}  // namespace metal_marlin

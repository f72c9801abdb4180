// Latent attention and routed experts in GGUF files.
#include "io/gguf_latent.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "base/thread_pool.h"
#include "io/gguf_model.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

Gguf latent_metadata(std::string_view architecture) {
  Gguf gguf;
  gguf.where = "test.gguf";
  gguf.values["general.architecture"] = architecture;
  const auto set = [&](const char* key, std::uint64_t value) {
    gguf.values[fmt::format("{}.{}", architecture, key)] = value;
  };
  set("block_count", 3);
  set("embedding_length", 32);
  set("feed_forward_length", 48);
  set("vocab_size", 64);
  set("attention.head_count", 4);
  set("attention.head_count_kv", 1);
  set("expert_count", 8);
  set("expert_used_count", 2);
  set("expert_feed_forward_length", 24);
  set("leading_dense_block_count", 1);
  set("rope.dimension_count", 4);
  if (architecture != "deepseek2") return gguf;
  set("attention.kv_lora_rank", 16);
  set("attention.key_length", 20);
  set("attention.value_length", 16);
  set("attention.key_length_mla", 12);
  set("attention.value_length_mla", 10);
  return gguf;
}

TEST(GgufLatents, KeysBecomeTheConfiguration) {
  Gguf gguf = latent_metadata("deepseek2");
  const auto expect_latents = [&] {
    const Json config = gguf_config_json(gguf);
    EXPECT_EQ(config["qk_nope_head_dim"], 8);
    EXPECT_EQ(config["qk_rope_head_dim"], 4);
    EXPECT_EQ(config["v_head_dim"], 10);
    EXPECT_EQ(config["kv_lora_rank"], 16);
    EXPECT_EQ(config["num_key_value_heads"], 4);
    EXPECT_FALSE(config.contains("head_dim"));
    return config;
  };
  EXPECT_TRUE(expect_latents()["q_lora_rank"].is_null());
  gguf.values["deepseek2.attention.q_lora_rank"] = std::uint64_t{6};
  EXPECT_EQ(expect_latents()["q_lora_rank"], 6);
  // Keys of latents that are not theirs.
  for (const auto& [key, wrong] :
       {std::pair("key_length", 12), std::pair("value_length", 10), std::pair("head_count_kv", 2)}) {
    Gguf other = gguf;
    other.values[fmt::format("deepseek2.attention.{}", key)] = static_cast<std::uint64_t>(wrong);
    expect_error(ErrorCode::kCorruptFile, fmt::format("key deepseek2.attention.{} is {}", key, wrong),
                 [&] { gguf_config_json(other); });
  }
  // Files from before heads and latents had keys of their own.
  gguf.values.erase("deepseek2.attention.key_length_mla");
  gguf.values.erase("deepseek2.attention.value_length_mla");
  gguf.values["deepseek2.attention.key_length"] = std::uint64_t{12};
  gguf.values["deepseek2.attention.value_length"] = std::uint64_t{10};
  expect_latents();
  gguf.values["deepseek2.attention.key_length"] = std::uint64_t{4};
  expect_error(ErrorCode::kCorruptFile, "key deepseek2.attention.key_length is 4, expected more than 4",
               [&] { gguf_config_json(gguf); });
}

TEST(GgufLatents, WhatModelItIsFollowsFromTheScoring) {
  Gguf gguf = latent_metadata("deepseek2");
  const auto config = [&] { return gguf_config_json(gguf); };
  EXPECT_EQ(config()["model_type"], "deepseek_v2");
  EXPECT_EQ(config()["topk_method"], "greedy");
  gguf.values["deepseek2.expert_group_count"] = std::uint64_t{4};
  gguf.values["deepseek2.expert_group_used_count"] = std::uint64_t{2};
  EXPECT_EQ(config()["topk_method"], "group_limited_greedy");
  EXPECT_EQ(config()["topk_group"], 2);
  gguf.values["deepseek2.expert_weights_norm"] = true;
  expect_error(ErrorCode::kUnsupported, "key deepseek2.expert_weights_norm", config);
  gguf.values["deepseek2.expert_gating_func"] = std::uint64_t{2};
  EXPECT_EQ(config()["model_type"], "deepseek_v3");
  EXPECT_EQ(config()["norm_topk_prob"], true);
  gguf.values.erase("deepseek2.expert_gating_func");
  gguf.tensors["blk.1.exp_probs_b.bias"] = {};
  EXPECT_EQ(config()["model_type"], "deepseek_v3");
  gguf.values["deepseek2.expert_gating_func"] = std::uint64_t{3};
  expect_error(ErrorCode::kUnsupported, "key deepseek2.expert_gating_func", config);
}

// A tenth of YaRN's weight is in the key, and the weight of scores' squared temperature follows.
TEST(GgufLatents, TemperatureIsATenth) {
  Gguf gguf = latent_metadata("deepseek2");
  gguf.values["deepseek2.rope.scaling.type"] = std::string_view("yarn");
  gguf.values["deepseek2.rope.scaling.factor"] = 40.0;
  gguf.values["deepseek2.rope.scaling.yarn_log_multiplier"] = static_cast<double>(0.0707F);
  const Json rope = gguf_config_json(gguf)["rope_parameters"];
  EXPECT_NEAR(rope["mscale_all_dim"].get<double>(), 0.707, 1e-6);
  EXPECT_EQ(rope["mscale"], rope["mscale_all_dim"]);
  gguf.values["deepseek2.rope.scaling.yarn_attn_factor"] = 1.5;
  expect_error(ErrorCode::kUnsupported, "key deepseek2.rope.scaling.yarn_log_multiplier",
               [&] { gguf_config_json(gguf); });
}

// Layers after the last are among a file's blocks.
TEST(GgufRoutedExperts, LayersThatPredictAreNotTheModels) {
  Gguf gguf = latent_metadata("glm4moe");
  const auto config = [&] { return gguf_config_json(gguf); };
  EXPECT_EQ(config()["num_hidden_layers"], 3);
  EXPECT_EQ(config()["use_qk_norm"], false);
  EXPECT_EQ(config()["first_k_dense_replace"], 1);
  EXPECT_EQ(config()["n_shared_experts"], 0);
  EXPECT_EQ(config()["routed_scaling_factor"], 1);
  EXPECT_EQ(config()["rope_parameters"]["partial_rotary_factor"], 0.5);
  gguf.values["glm4moe.nextn_predict_layers"] = std::uint64_t{1};
  gguf.tensors["blk.0.attn_q_norm.weight"] = {};
  EXPECT_EQ(config()["num_hidden_layers"], 2);
  EXPECT_EQ(config()["num_nextn_predict_layers"], 1);
  EXPECT_EQ(config()["use_qk_norm"], true);
  EXPECT_EQ(gguf_tensor_name(gguf_architecture(gguf), "blk.2.nextn.shared_head_norm.weight"),
            "model.layers.2.shared_head.norm.weight");
  gguf.values["glm4moe.nextn_predict_layers"] = std::uint64_t{3};
  expect_error(ErrorCode::kCorruptFile, "key glm4moe.nextn_predict_layers is 3", config);
  gguf.values["glm4moe.nextn_predict_layers"] = std::uint64_t{0};
  gguf.values["glm4moe.expert_gating_func"] = std::uint64_t{1};
  expect_error(ErrorCode::kUnsupported, "key glm4moe.expert_gating_func", config);
}

// Two heads, of rank 3, with keys of 2 and values of 1: keys lie turned.
TEST(GgufLatents, AreExpandedByKeysAndValuesTogether) {
  std::vector<float> keys(12);
  std::iota(keys.begin(), keys.end(), 1.0F);
  const std::vector<float> values{-1, -2, -3, -4, -5, -6};
  GgufExpansion expansion{{GgufType::kF32, {2, 3, 2}, std::as_bytes(std::span(keys))},
                          {GgufType::kF32, {2, 1, 3}, std::as_bytes(std::span(values))},
                          "test.gguf"};
  EXPECT_EQ(expansion.describe("w").shape, (Shape{6, 3}));
  ThreadPool pool(2);
  const Weight weight = expansion.load(pool);
  std::vector<float> found(18);
  for (std::int64_t row = 0; row < 6; ++row) weight.decode_row(row, 3, &found[static_cast<std::size_t>(3 * row)]);
  EXPECT_EQ(found, (std::vector<float>{1, 3, 5, 2, 4, 6, -1, -2, -3, 7, 9, 11, 8, 10, 12, -4, -5, -6}));

  const std::vector<std::uint16_t> halves(6, 0x3C00);
  expansion.values = {GgufType::kF16, {2, 1, 3}, std::as_bytes(std::span(halves))};
  EXPECT_EQ(expansion.describe("w").dtype, DType::kF32);  // which holds both
  for (const Shape& shape : {Shape{1, 2, 3}, Shape{2, 3, 1}, Shape{2, 3}}) {
    expansion.values.shape = shape;
    expect_error(ErrorCode::kCorruptFile, "tensors attn_k_b and attn_v_b of w: found [2, 3, 2] and",
                 [&] { static_cast<void>(expansion.describe("w")); });
  }
  expansion.values = {};
  expect_error(ErrorCode::kCorruptFile, "attn_v_b of w", [&] { static_cast<void>(expansion.describe("w")); });
}

// Quantized ones become f16: blocks of 32, in Q8_0 of a scale and 32 bytes.
TEST(GgufLatents, QuantizedPartsBecomeHalves) {
  std::vector<std::byte> keys(2 * 34);
  std::vector<std::byte> values(34);
  for (std::vector<std::byte>* const part : {&keys, &values}) {
    for (std::size_t block = 0; block < part->size(); block += 34) {
      (*part)[block + 1] = std::byte{0x38};  // 0.5
      for (std::size_t i = 0; i < 32; ++i) (*part)[block + 2 + i] = static_cast<std::byte>(block / 34 * 32 + i);
    }
  }
  const GgufExpansion expansion{
      {GgufType::kQ8_0, {1, 2, 32}, keys}, {GgufType::kF16, {1, 8, 2}, std::span(values).first(32)}, "test.gguf"};
  EXPECT_EQ(expansion.describe("w").dtype, DType::kF16);
  ThreadPool pool(1);
  const Weight weight = expansion.load(pool);
  std::vector<float> row(2);
  weight.decode_row(5, 2, row.data());
  EXPECT_EQ(row, (std::vector<float>{2.5F, 18.5F}));
}

}  // namespace
}  // namespace metal_marlin

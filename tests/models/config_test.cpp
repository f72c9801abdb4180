// config.json: fields that count, that do not, and that are refused; rotations of every kind; windows.
#include "models/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"
#include "models/architectures.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

Json config_of(const char* architecture) {
  return {{"model_type", architecture}, {"vocab_size", 64},       {"hidden_size", 32},
          {"intermediate_size", 64},    {"num_hidden_layers", 4}, {"num_attention_heads", 4},
          {"num_key_value_heads", 4},   {"head_dim", 8},          {"max_position_embeddings", 64}};
}

ModelConfig with(Json config, const char* key, const Json& value) {
  config[key] = value;
  return parse_model_config(config, nullptr, "config.json");
}

TEST(ConfigKeys, UnknownOnesAreNamed) {
  const Json llama = config_of("llama");
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"attn_logit_softcapping", 50.0},
                                                           {"final_logit_softcapping", 30.0},
                                                           {"logits_scaling", 8.0},
                                                           {"embedding_multiplier", 12.0},
                                                           {"no_rope_layers", {1, 0}},
                                                           {"use_qk_norm", true},
                                                           {"is_encoder_decoder", true},
                                                           {"position_embedding_type", "alibi"},
                                                           {"something_new", 1}}) {
    expect_error(ErrorCode::kUnsupported, std::string("field ") + key,
                 [&, key = key, value = value] { with(llama, key, value); });
    EXPECT_NO_THROW(with(llama, key, nullptr)) << key;
  }
}

TEST(ConfigKeys, HarmlessOnesAreLeftAlone) {
  const Json llama = config_of("llama");
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Json>>{{"torch_dtype", "bfloat16"},
                                                                                      {"unsloth_fixed", true},
                                                                                      {"attention_dropout", 0.1},
                                                                                      {"use_cache", false},
                                                                                      {"temperature", 0.7},
                                                                                      {"logits_scaling", 1},
                                                                                      {"is_encoder_decoder", false},
                                                                                      {"pretraining_tp", 2},
                                                                                      {"sliding_window", 4096}})
    EXPECT_NO_THROW(with(llama, key, value)) << key;
}

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

std::vector<float> frequencies(const Json& rope, std::int64_t length, float* scale = nullptr) {
  const ModelConfig config = with(config_of("llama"), "rope_scaling", rope);
  std::vector<float> out(4);
  rope_frequencies(config.rope, length, out);
  if (scale != nullptr) *scale = rope_attention_scale(config.rope);
  return out;
}

void expect_near(const std::vector<float>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6 * expected[i]) << i;
}

TEST(Rope, DynamicGrowsWithTheSequence) {
  const Json rope = {{"type", "dynamic"}, {"factor", 4.0}};
  const std::vector<double> plain{1, 0.1, 0.01, 0.001};
  expect_near(frequencies(rope, 1), plain);
  expect_near(frequencies(rope, 64), plain);
  const double theta = 10000 * std::pow(4.0 * 128 / 64 - 3, 8.0 / 6);
  expect_near(frequencies(rope, 128), {1, std::pow(theta, -0.25), std::pow(theta, -0.5), std::pow(theta, -0.75)});
}

TEST(Rope, LongropeTakesFactorsByTheSequencesLength) {
  const Json rope = {{"rope_type", "longrope"},
                     {"factor", 4.0},
                     {"original_max_position_embeddings", 16},
                     {"short_factor", {1.0, 1.0, 2.0, 4.0}},
                     {"long_factor", {1.0, 2.0, 4.0, 8.0}}};
  float scale = 0;
  expect_near(frequencies(rope, 16, &scale), {1, 0.1, 0.005, 0.00025});
  expect_near(frequencies(rope, 17), {1, 0.05, 0.0025, 0.000125});
  EXPECT_FLOAT_EQ(scale, std::sqrt(1 + std::log(4.0F) / std::log(16.0F)));
  Json short_list = rope;
  short_list["long_factor"] = {1.0, 2.0};
  expect_error(ErrorCode::kCorruptFile, "head_dim", [&] { frequencies(short_list, 1); });
  short_list["long_factor"] = {1.0, 2.0, 0.0, 1.0};
  expect_error(ErrorCode::kCorruptFile, "long_factor", [&] { frequencies(short_list, 1); });
}

TEST(Rope, ProportionalTurnsAPartOfEachHead) {
  const Json rope = {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.5}, {"rope_theta", 10000.0}};
  expect_near(frequencies(rope, 1), {1, 0.1, 0, 0});
  expect_error(ErrorCode::kUnsupported, "partial_rotary_factor", [&] {
    frequencies({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}, 1);
  });
}

TEST(Rope, OfEachLayerType) {
  const Json full = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  const Json local = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  Json qwen = config_of("qwen3");
  qwen["rope_parameters"] = {{"full_attention", full}, {"sliding_attention", local}};
  EXPECT_EQ(parse_model_config(qwen, nullptr, "c").rope.theta, 500000);
  qwen.update({{"use_sliding_window", true}, {"sliding_window", 4}});
  qwen["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  expect_error(ErrorCode::kUnsupported, "rope_parameters: full_attention and sliding_attention differ",
               [&] { parse_model_config(qwen, nullptr, "c"); });
  expect_error(ErrorCode::kUnsupported, "field mrope_section", [&] {
    frequencies({{"rope_type", "default"}, {"mrope_section", {1, 1, 2}}}, 1);
  });
}

TEST(ConfigSizes, AreBoundedTogether) {
  Json moe = config_of("qwen3_moe");
  moe.update({{"num_experts", 65536}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 8}});
  expect_error(ErrorCode::kCorruptFile, "num_hidden_layers", [&] { with(moe, "num_hidden_layers", 4096); });
}

}  // namespace
}  // namespace metal_marlin

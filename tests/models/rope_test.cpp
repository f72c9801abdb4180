// Rotations of every kind.
#include "models/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/configs.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

std::vector<float> frequencies(const Json& rope, std::int64_t length, float* scale = nullptr) {
  const ModelConfig config = with(config_of("llama"), "rope_scaling", rope);
  std::vector<float> out(4);
  rope_frequencies(config.ropes.at(0), length, out);
  if (scale != nullptr) *scale = rope_attention_scale(config.ropes.at(0));
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
}

TEST(Rope, PartsOfHeadsTurnWhereTheArchitectureDoes) {
  const ModelConfig glm = with(config_of("glm4"), "head_dim", 12);
  EXPECT_EQ(glm.ropes.at(0).rotated_dim(12), 6);  // half, where nothing is said
  EXPECT_EQ(with(config_of("glm4"), "partial_rotary_factor", 0.25).ropes.at(0).rotated_dim(8), 2);
  EXPECT_EQ(with(config_of("glm4"), "partial_rotary_factor", nullptr).ropes.at(0).rotated_dim(8), 8);
  expect_error(ErrorCode::kCorruptFile, "head_dim is 10, expected one of which an even number of elements is rotated",
               [] { with(config_of("glm4"), "head_dim", 10); });
  Json phi = config_of("phi3");
  phi["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(parse_model_config(phi, nullptr, "c").ropes.at(0).rotated_dim(8), 4);
  phi["original_max_position_embeddings"] = 16;
  phi["rope_scaling"] = {{"type", "su"}, {"short_factor", {1.0, 2.0}}, {"long_factor", {4.0, 8.0}}};
  const RopeConfig rope = parse_model_config(phi, nullptr, "c").ropes.at(0);
  EXPECT_EQ(rope.type, RopeType::kLongrope);
  EXPECT_EQ(rope.factor, 4);  // of the contexts
  phi["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  expect_error(ErrorCode::kCorruptFile, "longrope", [&] { parse_model_config(phi, nullptr, "c"); });
}

// The reference implementation's default rotation of Llama and Qwen does not read the field; GLM's does, and then the
// sizes of what it multiplies differ, as they do in the other types.
TEST(Rope, DefaultTurnsWholeHeads) {
  const Json half = {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}};
  expect_near(frequencies(half, 1), {1, 0.1, 0.01, 0.001});
  for (const char* const architecture : {"llama", "qwen3", "qwen3_moe"}) {
    EXPECT_EQ(with(config_of(architecture), "partial_rotary_factor", 0.5).ropes.at(0).rotated_part, 1) << architecture;
    EXPECT_EQ(with(config_of(architecture), "rope_parameters", half).ropes.at(0).rotated_part, 1) << architecture;
  }
  expect_error(ErrorCode::kUnsupported, "partial_rotary_factor",
               [&] { with(config_of("glm4_moe_lite"), "partial_rotary_factor", 0.5); });
  for (const char* const type : {"linear", "dynamic", "yarn"}) {
    expect_error(ErrorCode::kUnsupported, "partial_rotary_factor", [&] {
      frequencies({{"rope_type", type}, {"factor", 2.0}, {"partial_rotary_factor", 0.5}}, 1);
    });
  }
}

// Left out or null it follows from the factor; a number counts, 0 too.
TEST(Rope, AttentionFactorsAreTakenAsTheyAre) {
  Json rope = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16}};
  float scale = 0;
  frequencies(rope, 1, &scale);
  EXPECT_FLOAT_EQ(scale, 0.1F * std::log(4.0F) + 1);
  rope["attention_factor"] = nullptr;
  frequencies(rope, 1, &scale);
  EXPECT_FLOAT_EQ(scale, 0.1F * std::log(4.0F) + 1);
  for (const float factor : {0.0F, 0.5F, -1.0F}) {
    rope["attention_factor"] = factor;
    frequencies(rope, 1, &scale);
    EXPECT_EQ(scale, factor);
  }
}

TEST(Rope, OfEachLayerType) {
  const Json full = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  const Json local = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  Json qwen = config_of("qwen3");
  qwen["rope_parameters"] = {{"full_attention", full}, {"sliding_attention", local}};
  EXPECT_EQ(parse_model_config(qwen, nullptr, "c").ropes.at(0).theta, 500000);
  qwen.update({{"use_sliding_window", true}, {"sliding_window", 4}});
  qwen["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  expect_error(ErrorCode::kUnsupported, "rope_parameters: full_attention and sliding_attention differ",
               [&] { parse_model_config(qwen, nullptr, "c"); });
  for (const char* const architecture : {"llama", "glm4", "mistral", "phi3"}) {
    Json typeless = config_of(architecture);
    typeless["rope_parameters"] = {{"full_attention", full}};
    expect_error(ErrorCode::kUnsupported, "rope_parameters: it has fields for types of layers",
                 [&] { parse_model_config(typeless, nullptr, "c"); });
    typeless["layer_types"] = Json(4, "full_attention");
    EXPECT_EQ(parse_model_config(typeless, nullptr, "c").ropes.at(0).theta, 500000) << architecture;
  }
  Json gemma = config_of("gemma3_text");
  gemma.update({{"num_hidden_layers", 6}, {"sliding_window_pattern", 3}, {"rope_theta", 500000.0}});
  gemma["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  const ModelConfig old = parse_model_config(gemma, nullptr, "c");
  ASSERT_EQ(old.ropes.size(), 2U);
  EXPECT_EQ(std::pair(old.ropes[0].theta, old.ropes[1].theta), std::pair(500000.0, 10000.0));
  EXPECT_EQ(std::pair(old.ropes[0].factor, old.ropes[1].factor), std::pair(8.0, 1.0));
  EXPECT_EQ(old.rotations, (std::vector<int>{1, 1, 0, 1, 1, 0}));
  gemma["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 7000.0}}}};
  const RopeConfig both = parse_model_config(gemma, nullptr, "c").ropes.at(0);
  EXPECT_EQ(std::pair(both.theta, both.factor), std::pair(7000.0, 8.0));
  gemma["rope_scaling"] = {{"type", "linear"}, {"factor", 8.0}};
  expect_error(ErrorCode::kUnsupported, "rope_scaling: field type is \"linear\", expected rope_type",
               [&] { parse_model_config(gemma, nullptr, "c"); });
  expect_error(ErrorCode::kUnsupported, "field mrope_section", [&] {
    frequencies({{"rope_type", "default"}, {"mrope_section", {1, 1, 2}}}, 1);
  });
}

}  // namespace
}  // namespace metal_marlin

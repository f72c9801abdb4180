#include "quantize/recipe.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "backends/registry.h"
#include "metal_marlin/quantize.h"
#include "quantized_models.h"

namespace metal_marlin {
namespace {

std::string format_of(const Recipe& recipe, const PlannedWeight& weight, bool cold = false) {
  const auto spec = recipe.find(weight, cold);
  return spec ? std::string(format_info(spec->format).name) : "keep";
}

PlannedWeight weight(ModelPart part, const std::string& name) {
  return {name, {64, 64}, true, true, Role{part}};
}
PlannedWeight expert() {
  return weight(ModelPart::kExpert, "model.layers.1.mlp.experts.5.up_proj.weight");
}

TEST(Recipe, FirstRuleThatFitsDecides) {
  const Recipe recipe = parse_recipe(parse_json(R"({"rules": [
      {"class": "attention", "match": "layers\\.0\\.", "format": "keep"},
      {"class": "attention", "format": "fp8-e4m3", "group": "row", "scale_type": "f32"},
      {"class": "cold expert", "format": "int2", "group": 64},
      {"class": "expert", "format": "int3"},
      {"class": "shared expert", "format": "int8"},
      {"class": "feed-forward", "match": "down_proj", "format": "u4", "zero": "int"},
      {"class": "head", "format": "int6"}]})",
                                                "r"),
                                     "r");
  EXPECT_EQ(format_of(recipe, weight(ModelPart::kAttention, "model.layers.0.self_attn.q_proj.weight")), "keep");
  EXPECT_EQ(recipe.find(weight(ModelPart::kAttention, "model.layers.1.self_attn.kv_b_proj.weight"), false),
            (FormatSpec{Format::kFp8E4M3, 0, ScaleType::kF32, ZeroKind::kNone}));
  EXPECT_EQ(format_of(recipe, expert()), "int3");
  EXPECT_EQ(recipe.find(expert(), true)->group, 64);
  EXPECT_EQ(format_of(recipe, expert(), true), "int2");
  EXPECT_EQ(format_of(recipe, weight(ModelPart::kSharedExpert, "model.layers.1.mlp.shared_experts.up_proj.weight")),
            "int8");
  EXPECT_EQ(format_of(recipe, weight(ModelPart::kFeedForward, "model.layers.1.mlp.up_proj.weight")), "keep");
  EXPECT_EQ(recipe.find(weight(ModelPart::kFeedForward, "model.layers.1.mlp.down_proj.weight"), false)->zero,
            ZeroKind::kInteger);
  EXPECT_EQ(format_of(recipe, weight(ModelPart::kEmbedding, "model.embed_tokens.weight")), "keep");
  EXPECT_EQ(format_of(recipe, weight(ModelPart::kHead, "lm_head.weight")), "int6");
  EXPECT_TRUE(recipe.has_cold_rule());
}

TEST(Recipe, BuiltInOnesSayWhatTheirModelsNeed) {
  ASSERT_EQ(builtin_recipes().size(), 2U);
  const Recipe glm = load_recipe("glm-4.7-flash");
  EXPECT_EQ(format_of(glm, weight(ModelPart::kAttention, "model.layers.1.self_attn.kv_b_proj.weight")), "fp8-e4m3");
  EXPECT_EQ(format_of(glm, expert(), true), "int2");
  EXPECT_EQ(format_of(glm, expert()), "fp4");
  EXPECT_EQ(format_of(glm, weight(ModelPart::kSharedExpert, "model.layers.1.mlp.shared_experts.up_proj.weight")),
            "fp4");
  PlannedWeight predicts = expert();
  predicts.prediction = true;
  EXPECT_EQ(format_of(glm, predicts, true), "fp4");  // not cold
  const Recipe qwen = load_recipe("qwen3-4b");
  EXPECT_EQ(format_of(qwen, weight(ModelPart::kAttention, "model.layers.1.self_attn.o_proj.weight")), "fp8-e4m3");
  EXPECT_EQ(format_of(qwen, weight(ModelPart::kFeedForward, "model.layers.1.mlp.up_proj.weight")), "fp4");
  EXPECT_EQ(format_of(qwen, weight(ModelPart::kEmbedding, "model.embed_tokens.weight")), "int8");
}

TEST(Recipe, FaultsAreNamed) {
  const auto parse = [](const char* text) { parse_recipe(parse_json(text, "my.json"), "my.json"); };
  expect_error(ErrorCode::kInvalidArgument, "recipe 'none': neither a file nor one of glm-4.7-flash, qwen3-4b",
               [] { load_recipe("none"); });
  expect_error(ErrorCode::kCorruptFile, "rules", [&] { parse(R"({"rules": []})"); });
  expect_error(ErrorCode::kCorruptFile, "my.json: rule 1: field class is \"router\"",
               [&] { parse(R"({"rules": [{"class": "router", "format": "fp4"}]})"); });
  expect_error(ErrorCode::kInvalidArgument, "unknown format 'q4'", [&] { parse(R"({"rules": [{"format": "q4"}]})"); });
  expect_error(ErrorCode::kCorruptFile, "my.json: rule 1: field method",
               [&] { parse(R"({"rules": [{"format": "fp4", "method": "magic"}]})"); });
  expect_error(ErrorCode::kCorruptFile, "field grup", [&] { parse(R"({"rules": [{"format": "fp4", "grup": 32}]})"); });
  expect_error(ErrorCode::kUnsupported, "rule 1: match",
               [&] { parse(R"({"rules": [{"format": "fp4", "match": "("}]})"); });
}

TEST(Recipe, ColdExpertsAreThoseThatATextSeldomUses) {
  const TemporaryFolder folder;
  const auto model = folder.path() / "model";
  copy_with_tokenizer(fixture("glm4-moe-lite-tiny"), model);
  const std::string text = "The quick brown fox jumps over the lazy dog, 0123456789 times; why? Nobody knows.";
  std::ofstream(folder.path() / "text.txt") << text;
  QuantizeOptions options;
  options.recipe = "glm-4.7-flash";
  options.threads = 2;
  const QuantizeReport all_cold = quantize(model, folder.path() / "cold", options);
  options.calibration = folder.path() / "text.txt";
  options.calibration_tokens = 70;
  std::int64_t calibrated = 0;
  options.progress = [&](const QuantizeProgress& progress) {
    if (progress.calibrating) calibrated = progress.done_weights;
    return true;
  };
  const QuantizeReport report = quantize(model, folder.path() / "counted", options);
  EXPECT_EQ(calibrated, 2);  // the last layer
  ASSERT_EQ(report.expert_counts.size(), 3U);
  EXPECT_TRUE(report.expert_counts[0].empty());
  int cold = 0;
  for (std::size_t layer = 1; layer < 3; ++layer) {
    const auto& counts = report.expert_counts[layer];
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), 70 * 2);
    for (std::size_t expert = 0; expert < 8; ++expert) {
      const std::string name = "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(expert);
      const bool is_cold = static_cast<double>(counts[expert]) < 0.5 * 70 * 2 / 8;
      cold += is_cold ? 1 : 0;
      EXPECT_EQ(format_in(report, name + ".down_proj.weight"), is_cold ? "int2" : "fp4") << name << counts[expert];
      EXPECT_EQ(format_in(all_cold, name + ".down_proj.weight"), "int2");
    }
  }
  EXPECT_GT(cold, 0);
  EXPECT_LT(cold, 16);
  EXPECT_EQ(format_in(report, "model.layers.1.mlp.gate.weight"), "BF16");
  EXPECT_EQ(format_in(report, "model.layers.2.self_attn.kv_b_proj.weight"), "fp8-e4m3");
  EXPECT_EQ(format_in(report, "model.layers.0.mlp.up_proj.weight"), "fp4");
}

TEST(Recipe, QuantizedModelsRunAsTheirDecodedWeightsDo) {
  const TemporaryFolder folder;
  for (const auto& [model, recipe] :
       {std::pair{"glm4-moe-lite-tiny", "glm-4.7-flash"}, std::pair{"glm4-groups", "glm-4.7-flash"},
        std::pair{"qwen3-moe", "glm-4.7-flash"}, std::pair{"qwen3-tiny", "qwen3-4b"}}) {
    QuantizeOptions options;
    options.recipe = recipe;
    const auto target = folder.path() / model;
    quantize(fixture(model), target, options);
    const auto decoded = folder.path() / (std::string(model) + "-decoded");
    write_decoded(target, decoded);
    const auto expected = last_logits(decoded, true);
    for (const std::string& backend : available_backends())
      EXPECT_LT(relative_error(last_logits(target, true, backend), expected), 5e-6) << model << " " << backend;
  }
}

TEST(Recipe, CalibrationNeedsExpertsAndARuleForThem) {
  const TemporaryFolder folder;
  copy_with_tokenizer(fixture("qwen3-tiny"), folder.path() / "dense");
  std::ofstream(folder.path() / "text.txt") << "some text";
  QuantizeOptions options;
  options.calibration = folder.path() / "text.txt";
  options.recipe = "qwen3-4b";
  expect_error(ErrorCode::kInvalidArgument, "no rule for cold experts",
               [&] { quantize(folder.path() / "dense", folder.path() / "x", options); });
  options.recipe = "glm-4.7-flash";
  expect_error(ErrorCode::kInvalidArgument, "the model has no experts",
               [&] { quantize(folder.path() / "dense", folder.path() / "x", options); });
  expect_error(ErrorCode::kNotFound, "no tokenizer",
               [&] { quantize(fixture("glm4-moe-lite-tiny"), folder.path() / "x", options); });
}

}  // namespace
}  // namespace metal_marlin

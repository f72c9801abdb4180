// config.json: windows and bounds.
#include "models/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "io/checkpoint.h"
#include "made_checkpoint.h"
#include "models/configs.h"
#include "models/families/family.h"
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
  EXPECT_EQ(with(llama, "sliding_window", 4).windows, (Windows{0, 0, 0, 0}));
  moe["layer_types"] = llama["layer_types"];
  EXPECT_EQ(with(moe, "sliding_window", 4).windows, (Windows{4, 4, 4, 4}));
  for (const char* const type : {"chunked_attention", "linear_attention"}) {
    llama["layer_types"][0] = type;
    expect_error(ErrorCode::kCorruptFile, "layer_types", [&] { with(llama, "sliding_window", 4); });
  }
}

TEST(Windows, OfOtherFamiliesAreTheReferences) {
  using Windows = std::vector<std::int64_t>;
  const auto windows = [](const char* architecture, const char* key, const Json& value) {
    return with(config_of(architecture), key, value).windows;
  };
  EXPECT_EQ(windows("mistral", "sliding_window", 4), (Windows{4, 4, 4, 4}));
  EXPECT_EQ(windows("mistral", "sliding_window", nullptr), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows("mistral", "use_cache", true), Windows(4, 4096));
  // With a list the reference implementation takes it for a model of windows by layer.
  Json mistral = config_of("mistral");
  mistral["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_EQ(with(mistral, "sliding_window", 4).windows, (Windows{4, 0, 4, 0}));
  EXPECT_EQ(with(mistral, "layer_types", nullptr).windows, Windows(4, 4096));
  EXPECT_EQ(windows("ministral3", "use_cache", true), Windows(4, 0));
  EXPECT_EQ(windows("phi3", "sliding_window", 4), (Windows{4, 4, 4, 4}));
  EXPECT_EQ(windows("gemma2", "sliding_window", 4), (Windows{4, 0, 4, 0}));
  EXPECT_EQ(windows("gemma3_text", "sliding_window", 4), (Windows{4, 4, 4, 4}));  // up to the sixth layer
  EXPECT_EQ(windows("olmo3", "sliding_window", 4), (Windows{4, 4, 4, 0}));
  EXPECT_EQ(windows("exaone4", "sliding_window", nullptr), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows("qwen2", "sliding_window", 4), (Windows{0, 0, 0, 0}));
  Json sparse = config_of("qwen2_moe");
  EXPECT_EQ(with(sparse, "sliding_window", 4).windows, (Windows{0, 0, 0, 0}));
  sparse["use_sliding_window"] = true;
  EXPECT_EQ(with(sparse, "sliding_window", 4).windows, (Windows{4, 0, 4, 0}));
  EXPECT_EQ(with(sparse, "max_window_layers", 2).windows, (Windows{4096, 0, 0, 0}));
  EXPECT_EQ(windows("mixtral", "sliding_window", 4), (Windows{4, 4, 4, 4}));
  EXPECT_EQ(windows("mixtral", "use_cache", true), Windows(4, 0));
  EXPECT_EQ(windows("olmoe", "sliding_window", 4), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows("minimax_m2", "sliding_window", 4), (Windows{0, 0, 0, 0}));
  Json qwen = config_of("qwen2");
  qwen.update({{"use_sliding_window", true}, {"max_window_layers", 3}});
  EXPECT_EQ(with(qwen, "sliding_window", 4).windows, (Windows{0, 0, 0, 4}));
  Json smol = config_of("smollm3");
  smol.update({{"use_sliding_window", true}, {"no_rope_layers", {1, 0, 1, 0}}});
  EXPECT_EQ(with(smol, "sliding_window", 4).windows, (Windows{0, 4, 0, 4}));
  smol["use_sliding_window"] = false;
  EXPECT_EQ(with(smol, "sliding_window", 4).windows, (Windows{0, 0, 0, 0}));
  smol["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(with(smol, "sliding_window", 4).windows, (Windows{4, 0, 0, 0}));
  expect_error(ErrorCode::kCorruptFile, "sliding_window", [&] { with(smol, "sliding_window", nullptr); });
}

TEST(Rotations, AreOfTheLayersThatHaveThem) {
  using Layers = std::vector<int>;
  constexpr int kNone = kNoRotation;
  EXPECT_EQ(with(config_of("smollm3"), "no_rope_layers", {1, 1, 0, 1}).rotations, (Layers{0, 0, kNone, 0}));
  EXPECT_EQ(with(config_of("smollm3"), "no_rope_layer_interval", 2).rotations, (Layers{0, kNone, 0, kNone}));
  expect_error(ErrorCode::kCorruptFile, "no_rope_layers", [] { with(config_of("smollm3"), "no_rope_layers", {1}); });
  EXPECT_EQ(with(config_of("cohere2"), "sliding_window_pattern", 2).rotations, (Layers{0, kNone, 0, kNone}));
  EXPECT_EQ(with(config_of("exaone4"), "sliding_window", 4).rotations, (Layers{0, 0, 0, kNone}));
  EXPECT_EQ(with(config_of("exaone4"), "sliding_window", nullptr).rotations, (Layers{0, 0, 0, 0}));
}

TEST(Traits, OfCapsAndFactorsAreTheReferences) {
  const ModelConfig gemma = parse_model_config(config_of("gemma2"), nullptr, "c");
  EXPECT_EQ(std::pair(gemma.attention_soft_cap, gemma.logits_soft_cap), std::pair(50.0, 30.0));
  EXPECT_EQ(with(config_of("gemma2"), "attn_logit_softcapping", nullptr).attention_soft_cap, 0);
  EXPECT_EQ(gemma.attention_scale, 0.0625);
  EXPECT_EQ(gemma.activation, GateActivation::kGeluTanh);
  expect_error(ErrorCode::kCorruptFile, "final_logit_softcapping",
               [] { with(config_of("gemma2"), "final_logit_softcapping", -1.0); });
  EXPECT_EQ(parse_model_config(config_of("gemma3_text"), nullptr, "c").logits_soft_cap, 0);
  EXPECT_EQ(with(config_of("gemma3_text"), "attn_logit_softcapping", 20.0).attention_soft_cap, 0);  // not read there
  EXPECT_EQ(with(config_of("granite"), "logits_scaling", 8.0).logits_scale, 0.125);
  EXPECT_EQ(with(config_of("granite"), "residual_multiplier", 0.25).residual_scale, 0.25);
  const ModelConfig ministral = parse_model_config(config_of("ministral3"), nullptr, "c");
  EXPECT_EQ(std::pair(ministral.query_scale.beta, ministral.query_scale.span), std::pair(0.1, 16384.0));
}

TEST(Gemma4, LayersDiffer) {
  Json config = open_checkpoint(test_data("fixtures/gemma4"))->config();
  const auto parse = [&] { return parse_model_config(config, nullptr, "c"); };
  const HeadShape sliding{12, 2};
  const HeadShape full{20, 2};
  EXPECT_EQ(parse().heads_of, (std::vector{sliding, sliding, full, sliding, sliding, full}));
  EXPECT_EQ(parse().sources, (std::vector<int>{0, 1, 2, 1, 1, 2}));
  EXPECT_EQ(parse().intermediates, (std::vector<std::int64_t>{72, 72, 72, 144, 144, 144}));
  // As people's files have them.
  Json other = config;
  other.erase("per_layer_config");
  other["global_head_dim"] = 20;
  other["num_global_key_value_heads"] = 1;
  EXPECT_EQ(parse_model_config(other, nullptr, "c").heads_of, parse().heads_of);  // keys are no values
  other["attention_k_eq_v"] = true;
  const ModelConfig same = parse_model_config(other, nullptr, "c");
  EXPECT_EQ(same.heads_of[2], (HeadShape{20, 1}));
  EXPECT_EQ(same.keys_are_values, (std::vector<bool>{false, false, true, false, false, true}));
  // The last layer has no window, whatever the list says; without a list each sixth has none.
  config["layer_types"][5] = "sliding_attention";
  EXPECT_EQ(parse().windows, (std::vector<std::int64_t>{16, 16, 0, 16, 16, 0}));
  config.erase("layer_types");
  config["num_kv_shared_layers"] = 0;
  EXPECT_EQ(parse().windows, (std::vector<std::int64_t>{16, 16, 16, 16, 16, 0}));
  config.erase("rope_parameters");
  EXPECT_EQ(parse().ropes[0].type, RopeType::kProportional);
  EXPECT_EQ(parse().ropes[0].rotated_part, 0.25);
}

TEST(Gemma4, ExpertsAreBesideTheDensePart) {
  const Json config = open_checkpoint(test_data("fixtures/gemma4-experts"))->config();
  const ModelConfig model = parse_model_config(config, nullptr, "c");
  EXPECT_EQ(std::tuple(model.moe.experts, model.moe.top_k, model.moe.intermediate), std::tuple(7, 3, 36));
  EXPECT_EQ(model.sparse, (std::vector<bool>{true, true}));
  EXPECT_EQ(model.moe.activation, GateActivation::kGeluTanh);
  EXPECT_TRUE(model.moe.beside);
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Json>>{
           {"num_experts", nullptr}, {"top_k_experts", 8}, {"top_k_experts", 0}, {"moe_intermediate_size", nullptr}}) {
    Json other = config;
    other[key] = value;
    try {
      parse_model_config(other, nullptr, "c");
      ADD_FAILURE() << key;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
    other["enable_moe_block"] = false;
    EXPECT_EQ(parse_model_config(other, nullptr, "c").moe.experts, 0);
  }
}

TEST(Gemma4, WhatIsNotImplementedIsNamed) {
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"use_bidirectional_attention", "all"},
                                                           {"num_kv_shared_layers", 4},  // none before is full
                                                           {"num_kv_shared_layers", 6},
                                                           {"vocab_size_per_layer_input", 100},
                                                           {"num_attention_heads", 3},
                                                           {"per_layer_config", {{"7", {{"head_dim", 20}}}}},
                                                           {"per_layer_config", {{"2", {{"window", 20}}}}}}) {
    Json config = open_checkpoint(test_data("fixtures/gemma4"))->config();
    config[key] = value;
    try {
      parse_model_config(config, nullptr, "c");
      ADD_FAILURE() << key;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
}

// What of a model of images is left out is told; where nothing is said of a head, the embedding is that.
TEST(ModelConfig, OtherPartsThanTheTextAreTold) {
  const auto checkpoint = open_checkpoint(test_data("fixtures/mistral3-images"));
  std::string notice;
  EXPECT_FALSE(read_model_config(*checkpoint, [&](const std::string& text) { notice += text; }).tied);
  EXPECT_NE(notice.find("mistral3-images: of mistral3, the text is run: 15 tensors of its other parts, such as "),
            std::string::npos)
      << notice;
  Json config = checkpoint->config();
  config.erase("tie_word_embeddings");
  EXPECT_TRUE(parse_model_config(config, nullptr, "test").tied);
}

// The text of a model of images: its configuration lies within, what ends it beside it.
TEST(TextWithin, IsTheModel) {
  Json text = config_of("gemma3_text");
  text.erase("model_type");
  Json whole = {{"model_type", "gemma3"},
                {"text_config", text},
                {"vision_config", {{"hidden_size", 8}}},
                {"eos_token_id", {1, 106}}};
  const ModelConfig config = parse_model_config(whole, nullptr, "c");
  EXPECT_EQ(config.model_type, "gemma3_text");
  EXPECT_EQ(config.hidden, 32);
  EXPECT_EQ(config.end_tokens, (std::vector<std::int64_t>{1, 106}));
  EXPECT_TRUE(config.tied);
  whole["something_new"] = 1;
  expect_error(ErrorCode::kUnsupported, "field something_new", [&] { parse_model_config(whole, nullptr, "c"); });
  whole.erase("something_new");
  whole["text_config"]["something_new"] = 1;
  expect_error(ErrorCode::kUnsupported, "field something_new", [&] { parse_model_config(whole, nullptr, "c"); });
}

// A list that attention does not go by is told.
TEST(Windows, ThatAreNotUsedAreANotice) {
  for (const char* const architecture : {"llama", "qwen3"}) {
    Json config = config_of(architecture);
    config.update({{"layer_types", {"full_attention", "sliding_attention", "full_attention", "full_attention"}},
                   {"use_sliding_window", true}});
    std::string notices;
    read_model_config(MadeCheckpoint({}, {}, config), [&](const std::string& text) { notices += text; });
    EXPECT_EQ(notices, std::string(architecture) == "qwen3" ? ""
                                                            : "made: field layer_types has sliding_attention, which "
                                                              "attention in llama does not go by");
  }
}

// As the reference implementation has it: another name than its configuration's field counts.
TEST(ConfigNames, TheOtherNameCounts) {
  Json glm = config_of("glm4_moe_lite");
  glm.update({{"kv_lora_rank", 16},
              {"q_lora_rank", 16},
              {"qk_nope_head_dim", 8},
              {"v_head_dim", 8},
              {"n_routed_experts", 4},
              {"num_experts_per_tok", 2},
              {"moe_intermediate_size", 8}});
  EXPECT_EQ(with(glm, "qk_head_dim", 99).latent.rope_dim, 8);  // which follows from others, whatever it says
  EXPECT_EQ(with(glm, "qk_rope_head_dim", 4).latent.rope_dim, 8);
  EXPECT_EQ(with(glm, "num_local_experts", 8).moe.experts, 8);
  Json moe = config_of("qwen3_moe");
  moe.update({{"num_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 8}});
  EXPECT_EQ(with(moe, "num_local_experts", 8).moe.experts, 8);
  for (const auto& [architecture, field, other] : {std::tuple("mixtral", "num_local_experts", "num_experts"),
                                                   std::tuple("minimax_m2", "num_local_experts", "num_experts"),
                                                   std::tuple("olmoe", "num_experts", "num_local_experts")}) {
    Json config = config_of(architecture);
    config.update({{field, 4}, {"num_experts_per_tok", 2}});
    EXPECT_EQ(with(config, "use_cache", true).moe.experts, 4) << architecture;
    EXPECT_EQ(with(config, other, 8).moe.experts, 8) << architecture;
  }
}

TEST(ConfigExperts, AreAsWideAsTheArchitectureSays) {
  Json qwen = config_of("qwen2_moe");
  const MoeConfig usual = parse_model_config(qwen, nullptr, "c").moe;
  EXPECT_EQ(std::tuple(usual.experts, usual.top_k, usual.intermediate, usual.shared_intermediate),
            std::tuple(60, 4, 1408, 5632));
  EXPECT_TRUE(usual.shared_gate);
  EXPECT_FALSE(usual.normalize);
  EXPECT_TRUE(with(qwen, "norm_topk_prob", true).moe.normalize);
  const MoeConfig alone = with(qwen, "shared_expert_intermediate_size", 0).moe;
  EXPECT_EQ(std::tuple(alone.shared_intermediate, alone.shared_gate), std::tuple(0, false));
  EXPECT_EQ(with(config_of("qwen2_moe"), "qkv_bias", false).qkv_bias, false);
  EXPECT_EQ(with(config_of("qwen2_moe"), "use_cache", true).qkv_bias, true);
  for (const auto& [architecture, experts, top_k, normalize] :
       {std::tuple("mixtral", 8, 2, true), std::tuple("olmoe", 64, 8, false), std::tuple("minimax_m2", 256, 8, true)}) {
    const ModelConfig config = with(config_of(architecture), "moe_intermediate_size", 8);  // which is not theirs
    EXPECT_EQ(std::tuple(config.moe.experts, config.moe.top_k, config.moe.intermediate, config.moe.normalize),
              std::tuple(experts, top_k, 64, normalize))
        << architecture;
    EXPECT_EQ(config.sparse, std::vector<bool>(4, true)) << architecture;
  }
}

TEST(ConfigExperts, WhatMiniMaxsFilesSay) {
  Json config = config_of("minimax_m2");
  config.update({{"rotary_dim", 4},
                 {"attn_type_list", {1, 1, 1, 1}},
                 {"use_qk_norm", true},
                 {"qk_norm_type", "per_layer"},
                 {"use_routing_bias", true},
                 {"scoring_func", "sigmoid"},
                 {"shared_intermediate_size", 0},
                 {"layernorm_mlp_beta", 1.0},
                 {"num_mtp_modules", 3}});
  EXPECT_EQ(parse_model_config(config, nullptr, "c").ropes[0].rotated_dim(8), 4);
  EXPECT_EQ(with(config, "partial_rotary_factor", 0.25).ropes[0].rotated_dim(8), 2);
  EXPECT_EQ(with(config_of("minimax_m2"), "use_cache", true).ropes[0].rotated_dim(8), 8);
  expect_error(ErrorCode::kCorruptFile, "rotary_dim", [&] { with(config, "rotary_dim", 10); });
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"attn_type_list", {1, 0, 1, 1}},
                                                           {"attn_type_list", 1},
                                                           {"qk_norm_type", "per_head"},
                                                           {"use_routing_bias", false},
                                                           {"scoring_func", "softmax"},
                                                           {"shared_intermediate_size", 8},
                                                           {"layernorm_mlp_beta", 3.5},
                                                           {"layernorm_full_attention_alpha", 3.5}})
    expect_error(ErrorCode::kUnsupported, std::string("field ") + key, [&] { with(config, key, value); });
  expect_error(ErrorCode::kUnsupported, "field clip_qkv is 8.0", [&] { with(config_of("olmoe"), "clip_qkv", 8.0); });
}

// Routers of this architecture are what they are; the fields of its relatives are a notice.
TEST(ConfigRouters, DoNotGoByFieldsOfOthers) {
  const Json glm = config_of("glm4_moe_lite");
  EXPECT_EQ(with(glm, "topk_method", "greedy").moe.scoring, RouterScoring::kSigmoid);
  EXPECT_TRUE(with(glm, "scoring_func", "softmax").moe.router_bias);
  std::vector<std::string> notices;
  const auto notice = [&](const std::string& text) { notices.push_back(text); };
  for (const auto& [architecture, key, value] :
       {std::tuple{"glm4_moe_lite", "first_k_dense_replace", 2}, std::tuple{"mixtral", "norm_topk_prob", 0},
        std::tuple{"olmoe", "sliding_window", 20}, std::tuple{"gemma3_text", "attn_logit_softcapping", 20}}) {
    Json config = config_of(architecture);
    config[key] = value;
    read_model_config(MadeCheckpoint({}, {}, config), notice);
    ASSERT_EQ(notices.size(), 1U);
    EXPECT_NE(notices[0].find(std::string("field ") + key), std::string::npos) << notices[0];
    notices.clear();
  }
  const auto model = open_checkpoint(test_data("field/fields-that-do-not-count-glm4/m"));
  read_model_config(*model, notice);
  ASSERT_EQ(notices.size(), 4U);
  EXPECT_NE(notices[0].find("field head_dim is 8, and counts in the place of qk_rope_head_dim, which is 4"),
            std::string::npos);
  EXPECT_NE(notices[1].find("field num_local_experts is 6"), std::string::npos);
  EXPECT_NE(notices[2].find("field topk_method is \"greedy\""), std::string::npos);
  EXPECT_NE(notices[3].find("field scoring_func is \"softmax\""), std::string::npos);
}

TEST(GptOss, IsWhatItsFieldsSay) {
  using Windows = std::vector<std::int64_t>;
  const Json config = config_of("gpt_oss");
  const ModelConfig usual = with(config, "use_cache", true);
  EXPECT_EQ(usual.windows, (Windows{128, 0, 128, 0}));
  EXPECT_EQ(with(config, "sliding_window", nullptr).windows, (Windows{0, 0, 0, 0}));
  EXPECT_EQ(with(config, "layer_types", Json(4, "full_attention")).windows, (Windows{0, 0, 0, 0}));
  EXPECT_TRUE(usual.sinks && usual.qkv_bias && usual.output_bias && usual.moe.biases && usual.moe.router_offset);
  EXPECT_FALSE(with(config, "attention_bias", false).qkv_bias);
  EXPECT_EQ(usual.moe.experts, 128);
  EXPECT_EQ(usual.moe.top_k, 4);
  EXPECT_EQ(usual.moe.intermediate, 64);  // intermediate_size
  EXPECT_EQ(with(config, "num_experts", 8).moe.experts, 8);
  EXPECT_EQ(usual.moe.clamp.limit, 7);
  EXPECT_EQ(with(config, "swiglu_limit", 3.5).moe.clamp.limit, 3.5F);
  EXPECT_EQ(with(config, "swiglu_alpha", 1).moe.clamp.alpha, 1);
  expect_error(ErrorCode::kCorruptFile, "swiglu_limit", [&] { with(config, "swiglu_limit", 0); });
  // What the reference implementation does not read must say the same.
  EXPECT_EQ(with(config, "experts_per_token", 4).moe.top_k, 4);
  expect_error(ErrorCode::kUnsupported, "experts_per_token is 2, expected 4",
               [&] { with(config, "experts_per_token", 2); });
  EXPECT_EQ(with(config, "initial_context_length", 4096).model_type, "gpt_oss");
  expect_error(ErrorCode::kUnsupported, "initial_context_length is 8192, expected 4096",
               [&] { with(config, "initial_context_length", 8192); });
  expect_error(ErrorCode::kUnsupported, "hidden_act", [&] { with(config, "hidden_act", "gelu"); });
}

// Without a field there is a rotation of its own; its bounds are not rounded.
TEST(GptOss, RotationIsTheReferences) {
  const Json config = config_of("gpt_oss");
  const RopeConfig usual = with(config, "use_cache", true).ropes.front();
  const Json said = {{"rope_type", "yarn"},
                     {"rope_theta", 150000},
                     {"factor", 32},
                     {"beta_fast", 32},
                     {"beta_slow", 1},
                     {"truncate", false},
                     {"original_max_position_embeddings", 4096}};
  const RopeConfig same = with(config, "rope_parameters", said).ropes.front();
  std::vector<float> frequencies(32);
  std::vector<float> of_said(32);
  rope_frequencies(usual, 1, frequencies);
  rope_frequencies(same, 1, of_said);
  EXPECT_EQ(frequencies, of_said);
  EXPECT_NEAR(rope_attention_scale(usual), 1.3465736, 1e-6);
  EXPECT_EQ(with(config, "rope_theta", 10000).ropes.front().theta, 10000);
  EXPECT_EQ(with(config, "rope_parameters", Json{{"rope_type", "default"}}).ropes.front().theta, 150000);
  // Between 8.09 and 17.40, where the angles change; from 8 to 18 they would be others.
  const double base = std::pow(150000.0, -24.0 / 64);
  const double ramp = (12 - 8.0926) / (17.3980 - 8.0926);
  EXPECT_NEAR(frequencies[12] / (base / 32 * ramp + base * (1 - ramp)), 1, 1e-4);
}

// DeepSeek's mixtures, by what their configurations say of groups.
TEST(ConfigRouters, ChooseWithinGroups) {
  const MoeConfig v3 = parse_model_config(config_of("deepseek_v3"), nullptr, "c").moe;
  EXPECT_EQ(std::tuple(v3.experts, v3.top_k, v3.intermediate, v3.shared_intermediate, v3.groups, v3.top_groups,
                       v3.group_best),
            std::tuple(256, 8, 2048, 2048, 8, 4, 2));
  EXPECT_TRUE(v3.normalize && v3.router_bias && v3.scoring == RouterScoring::kSigmoid && v3.scale == 2.5);
  EXPECT_EQ(parse_model_config(config_of("kimi_k2"), nullptr, "c").sparse,
            (std::vector<bool>{false, false, false, true}));
  Json v2 = config_of("deepseek_v2");
  v2.update({{"n_group", 8}, {"topk_group", 3}, {"norm_topk_prob", true}});
  const MoeConfig greedy = parse_model_config(v2, nullptr, "c").moe;  // norm_topk_prob is not read
  EXPECT_TRUE(!greedy.normalize && !greedy.router_bias && greedy.groups == 1 &&
              greedy.shared_intermediate == 2 * greedy.intermediate);
  v2["topk_method"] = "group_limited_greedy";
  const MoeConfig grouped = parse_model_config(v2, nullptr, "c").moe;
  EXPECT_EQ(std::tuple(grouped.groups, grouped.top_groups, grouped.group_best), std::tuple(8, 3, 1));
  expect_error(ErrorCode::kUnsupported, "field topk_method is \"noaux_tc\", expected greedy or group_limited_greedy",
               [&] { with(v2, "topk_method", "noaux_tc"); });
  for (const char* const key : {"n_group", "topk_group", "num_experts_per_tok"}) {
    Json without = v2;
    without.erase(key);
    expect_error(ErrorCode::kNotFound, key, [&] { parse_model_config(without, nullptr, "c"); });
  }
  expect_error(ErrorCode::kCorruptFile, "field n_group is 7, expected a divisor of n_routed_experts 64",
               [&] { with(v2, "n_group", 7); });
  expect_error(ErrorCode::kCorruptFile,
               "num_experts_per_tok is 25, expected no more experts than topk_group groups have",
               [&] { with(v2, "num_experts_per_tok", 25); });
  expect_error(ErrorCode::kNotFound, "topk_group is nothing, expected no more than 2 groups, as it is 4",
               [] { with(config_of("deepseek_v3"), "n_group", 2); });
}

TEST(ConfigLatents, OfDeepSeek) {
  Json v3 = config_of("deepseek_v3");
  const LatentConfig latent = parse_model_config(v3, nullptr, "c").latent;
  EXPECT_EQ(std::tuple(latent.q_rank, latent.rank, latent.nope_dim, latent.value_dim), std::tuple(1536, 512, 128, 128));
  EXPECT_TRUE(latent.interleaved);
  EXPECT_FALSE(with(v3, "rope_interleave", nullptr).latent.interleaved);
  EXPECT_TRUE(with(config_of("deepseek_v2"), "rope_interleave", false).latent.interleaved);  // which is not read
  expect_error(ErrorCode::kUnsupported, "field head_dim is 16, expected 8, as qk_rope_head_dim is",
               [&] { with(v3, "head_dim", 16); });
  // YaRN's temperature is in scores once more, squared.
  v3["rope_scaling"] = {{"type", "yarn"},
                        {"factor", 40},
                        {"mscale", 1.0},
                        {"mscale_all_dim", 1.0},
                        {"original_max_position_embeddings", 4096}};
  const ModelConfig scaled = parse_model_config(v3, nullptr, "c");
  const double temperature = 0.1 * std::log(40.0) + 1;
  EXPECT_NEAR(latent_softmax_scale(scaled), temperature * temperature / std::sqrt(136.0), 1e-7);
  EXPECT_EQ(rope_attention_scale(scaled.ropes.at(0)), 1);
}

TEST(ConfigPrediction, LayersHaveTwoNames) {
  for (const char* const architecture : {"glm4_moe", "deepseek_v3"}) {
    Json config = config_of(architecture);
    EXPECT_EQ(parse_model_config(config, nullptr, "c").mtp_layers, 1);
    config["num_mtp_layers"] = 2;
    EXPECT_EQ(parse_model_config(config, nullptr, "c").mtp_layers, 2);
    EXPECT_EQ(with(config, "num_nextn_predict_layers", 0).mtp_layers, 0);
  }
}

TEST(ConfigNorms, OfHeadsWhereGlmSaysSo) {
  const Json glm = config_of("glm4_moe");
  EXPECT_EQ(parse_model_config(glm, nullptr, "c").qk_norm, QkNorm::kNone);
  EXPECT_EQ(with(glm, "use_qk_norm", true).qk_norm, QkNorm::kHeads);
  const ModelConfig biased = with(glm, "attention_bias", true);
  EXPECT_TRUE(biased.qkv_bias && !biased.output_bias);
  EXPECT_EQ(biased.ropes.at(0).rotated_part, 0.5);
  EXPECT_EQ(with(glm, "first_k_dense_replace", 3).sparse, (std::vector<bool>{false, false, false, true}));
}

TEST(ConfigBiases, OfMlpsAreLlamasAlone) {
  EXPECT_TRUE(with(config_of("llama"), "mlp_bias", true).mlp_bias);
  EXPECT_FALSE(with(config_of("qwen3"), "mlp_bias", true).mlp_bias);
}

TEST(ConfigSizes, AreBoundedTogether) {
  Json moe = config_of("qwen3_moe");
  moe.update({{"num_experts", 65536}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 8}});
  expect_error(ErrorCode::kCorruptFile, "num_hidden_layers", [&] { with(moe, "num_hidden_layers", 4096); });
}

// What the reference implementation's configurations have where a field is left out; it takes no null for the second.
TEST(ConfigDefaults, AreTheReferences) {
  Json qwen = config_of("qwen3_moe");
  qwen["mlp_only_layers"] = Json::array();
  const MoeConfig moe = parse_model_config(qwen, nullptr, "c").moe;
  EXPECT_EQ(std::tuple(moe.experts, moe.top_k, moe.intermediate), std::tuple(128, 8, 768));
  expect_error(ErrorCode::kNotFound, "num_experts_per_tok is nothing, expected no more than 6 experts",
               [&] { with(qwen, "num_experts", 6); });
  Json latents = config_of("glm4_moe_lite");
  latents.erase("head_dim");  // another name for qk_rope_head_dim
  const ModelConfig glm = parse_model_config(latents, nullptr, "c");
  EXPECT_EQ(std::tuple(glm.moe.experts, glm.moe.top_k, glm.moe.intermediate), std::tuple(64, 4, 1536));
  const LatentConfig& latent = glm.latent;
  EXPECT_EQ(std::tuple(latent.q_rank, latent.rank, latent.nope_dim, latent.rope_dim, latent.value_dim),
            std::tuple(768, 512, 192, 64, 256));
  EXPECT_EQ(with(config_of("glm4_moe_lite"), "q_lora_rank", nullptr).latent.q_rank, 0);
  for (const Architecture* const known : architectures()) {
    if (!known->within.empty()) continue;
    const std::string architecture(known->name);
    const Json config = config_of(architecture);
    EXPECT_EQ(parse_model_config(config, nullptr, "c").tied, known->sizes.tied) << architecture;
    EXPECT_TRUE(with(config, "tie_word_embeddings", true).tied) << architecture;
    expect_error(ErrorCode::kCorruptFile, "tie_word_embeddings is null, expected true or false",
                 [&] { with(config, "tie_word_embeddings", nullptr); });
  }
}

TEST(ConfigDefaults, OfSizesAndEndsAreTheReferences) {
  const auto sizes = [](const char* architecture) {
    const ModelConfig c = parse_model_config({{"model_type", architecture}}, nullptr, "c");
    return std::vector<std::int64_t>{c.vocab, c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads, c.max_positions};
  };
  using Sizes = std::vector<std::int64_t>;
  EXPECT_EQ(sizes("llama"), (Sizes{32000, 4096, 11008, 32, 32, 32, 2048}));
  EXPECT_EQ(sizes("qwen3"), (Sizes{151936, 4096, 22016, 32, 32, 32, 32768}));
  EXPECT_EQ(sizes("qwen3_moe"), (Sizes{151936, 2048, 6144, 24, 32, 4, 32768}));
  EXPECT_EQ(sizes("glm4_moe_lite"), (Sizes{154880, 2048, 10240, 47, 20, 20, 202752}));
  EXPECT_EQ(sizes("qwen2_moe"), (Sizes{151936, 2048, 5632, 24, 16, 16, 32768}));
  EXPECT_EQ(sizes("mixtral"), (Sizes{32000, 4096, 14336, 32, 32, 8, 131072}));
  EXPECT_EQ(sizes("olmoe"), (Sizes{50304, 2048, 2048, 16, 16, 16, 4096}));
  EXPECT_EQ(sizes("minimax_m2"), (Sizes{200064, 3072, 1536, 62, 48, 8, 196608}));
  expect_error(ErrorCode::kCorruptFile, "field vocab_size is null",
               [] { with(config_of("llama"), "vocab_size", nullptr); });
  const auto ends = [](const char* architecture, const Json& generation) {
    return parse_model_config(config_of(architecture), generation, "c").end_tokens;
  };
  EXPECT_EQ(ends("llama", nullptr), (Sizes{2}));
  EXPECT_EQ(ends("glm4_moe_lite", nullptr), (Sizes{1}));
  EXPECT_EQ(ends("qwen3", nullptr), Sizes());
  EXPECT_EQ(ends("llama", Json::object()), Sizes());  // where there is a file for it, it is that one's
  EXPECT_EQ(with(config_of("llama"), "eos_token_id", nullptr).end_tokens, Sizes());
}

TEST(Activations, OfOneFunctionAreOne) {
  const auto activation = [](const char* name) { return with(config_of("llama"), "hidden_act", name).activation; };
  EXPECT_EQ(activation("silu"), GateActivation::kSilu);
  EXPECT_EQ(activation("swish"), GateActivation::kSilu);
  EXPECT_EQ(activation("gelu"), GateActivation::kGelu);
  EXPECT_EQ(activation("gelu_pytorch_tanh"), GateActivation::kGeluTanh);
  expect_error(ErrorCode::kUnsupported, "hidden_act", [&] { activation("relu"); });
  expect_error(ErrorCode::kUnsupported, "hidden_act is \"gelu\", expected silu or swish, as it has experts",
               [] { with(config_of("qwen3_moe"), "hidden_act", "gelu"); });
}

TEST(PredictionLayers, AreThoseThatTheCheckpointHolds) {
  ModelConfig config;
  config.layers = 3;
  config.mtp_layers = 2;
  const auto with = [&](const std::vector<std::string>& names) {
    std::vector<WeightInfo> weights;
    for (const std::string& name : names) weights.push_back({name, {4, 8}, DType::kF32, std::nullopt, 128, "F32"});
    return prediction_layers(config, MadeCheckpoint(std::move(weights), {}));
  };
  EXPECT_EQ(with({"model.layers.2.eh_proj.weight", "model.layers.5.eh_proj.weight", "model.layers.3.enorm.weight"}), 0);
  EXPECT_EQ(with({"model.layers.3.eh_proj.weight", "model.layers.4.eh_proj.weight"}), 2);
  expect_error(ErrorCode::kNotFound, "model.layers.3.eh_proj.weight", [&] { with({"model.layers.4.eh_proj.weight"}); });
  for (const auto& [name, is] : {std::pair("model.layers.3.embed_tokens.weight", true),
                                 std::pair("model.layers.4.shared_head.head.weight", true),
                                 std::pair("model.layers.3.shared_head.norm.weight", false),
                                 std::pair("model.layers.5.embed_tokens.weight", false)})
    EXPECT_EQ(is_prediction_copy(config, name), is) << name;
}

}  // namespace
}  // namespace metal_marlin

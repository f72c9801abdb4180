// config.json: fields that count, that do not, and that are refused.
#include "models/config_keys.h"

#include <gtest/gtest.h>

#include "models/configs.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

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
                 [&, name = key, given = value] { with(llama, name, given); });
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

// DeepSeek's files have fields of training and of their own code beside those that the reference implementation reads.
TEST(ConfigKeys, OfDeepSeekAreKnown) {
  const Json yarn = {{"beta_fast", 32}, {"beta_slow", 1},        {"factor", 40},
                     {"mscale", 1.0},   {"mscale_all_dim", 1.0}, {"original_max_position_embeddings", 4096},
                     {"type", "yarn"}};
  const Json fp8 = {
      {"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  Json v3 = config_of("deepseek_v3");
  v3.erase("head_dim");
  v3.update({{"auto_map", {{"AutoConfig", "configuration_deepseek.DeepseekV3Config"}}},
             {"ep_size", 1},
             {"first_k_dense_replace", 3},
             {"moe_layer_freq", 1},
             {"num_nextn_predict_layers", 1},
             {"quantization_config", fp8},
             {"rope_scaling", yarn},
             {"rope_theta", 10000},
             {"scoring_func", "sigmoid"},
             {"topk_method", "noaux_tc"}});
  EXPECT_EQ(parse_model_config(v3, nullptr, "c").mtp_layers, 1);
  Json kimi = v3;
  kimi.update({{"model_type", "kimi_k2"},
               {"aux_loss_alpha", 0.001},
               {"seq_aux", true},
               {"pretraining_tp", 1},
               {"n_group", 1},
               {"topk_group", 1},
               {"num_nextn_predict_layers", 0}});
  EXPECT_EQ(parse_model_config(kimi, nullptr, "c").moe.groups, 1);
  Json lite = config_of("deepseek_v2");
  lite.erase("head_dim");
  lite.update({{"q_lora_rank", nullptr},
               {"rope_scaling", yarn},
               {"scoring_func", "softmax"},
               {"topk_method", "greedy"},
               {"norm_topk_prob", false},
               {"moe_layer_freq", 1},
               {"aux_loss_alpha", 0.001},
               {"seq_aux", true},
               {"n_group", 1},
               {"topk_group", 1},
               {"pretraining_tp", 1}});
  EXPECT_EQ(parse_model_config(lite, nullptr, "c").latent.q_rank, 0);
  Json glm = config_of("glm4_moe");
  glm.update({{"use_qk_norm", true}, {"partial_rotary_factor", 0.5}, {"num_nextn_predict_layers", 1}});
  EXPECT_EQ(parse_model_config(glm, nullptr, "c").mtp_layers, 1);
}

}  // namespace
}  // namespace metal_marlin

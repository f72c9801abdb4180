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

}  // namespace
}  // namespace metal_marlin

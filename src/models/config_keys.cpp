#include "models/config_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

using Keys = std::string_view;

// What parse_model_config and the checkpoints read.
constexpr std::array<Keys, 47> kUsed{"model_type",
                                     "vocab_size",
                                     "hidden_size",
                                     "intermediate_size",
                                     "num_hidden_layers",
                                     "num_attention_heads",
                                     "num_key_value_heads",
                                     "head_dim",
                                     "max_position_embeddings",
                                     "rms_norm_eps",
                                     "tie_word_embeddings",
                                     "attention_bias",
                                     "mlp_bias",
                                     "hidden_act",
                                     "partial_rotary_factor",
                                     "rope_theta",
                                     "rope_scaling",
                                     "rope_parameters",
                                     "original_max_position_embeddings",
                                     "use_sliding_window",
                                     "sliding_window",
                                     "max_window_layers",
                                     "layer_types",
                                     "eos_token_id",
                                     "quantization",
                                     "quantization_config",
                                     "kv_lora_rank",
                                     "q_lora_rank",
                                     "qk_nope_head_dim",
                                     "qk_rope_head_dim",
                                     "v_head_dim",
                                     "rope_interleave",
                                     "n_routed_experts",
                                     "n_shared_experts",
                                     "num_experts",
                                     "num_local_experts",
                                     "num_experts_per_tok",
                                     "moe_intermediate_size",
                                     "n_group",
                                     "topk_group",
                                     "norm_topk_prob",
                                     "routed_scaling_factor",
                                     "mlp_layer_types",
                                     "decoder_sparse_step",
                                     "mlp_only_layers",
                                     "num_nextn_predict_layers",
                                     "generation_config"};

// Who wrote the model, with what, and of which type its weights were.
constexpr std::array<Keys, 17> kOrigin{"architectures",        "_name_or_path",       "name_or_path",  "_commit_hash",
                                       "transformers_version", "torch_dtype",         "dtype",         "auto_map",
                                       "tokenizer_class",      "unsloth_version",     "unsloth_fixed", "license",
                                       "model_max_length",     "max_sequence_length", "model_name",    "base_model",
                                       "custom_pipelines"};
// Of training, and of heads for other tasks.
constexpr std::array<Keys, 26> kTraining{"initializer_range",
                                         "attention_dropout",
                                         "hidden_dropout",
                                         "resid_pdrop",
                                         "embd_pdrop",
                                         "attn_pdrop",
                                         "hidden_dropout_prob",
                                         "attention_probs_dropout_prob",
                                         "dropout",
                                         "activation_dropout",
                                         "classifier_dropout",
                                         "router_aux_loss_coef",
                                         "aux_loss_alpha",
                                         "seq_aux",
                                         "router_jitter_noise",
                                         "output_router_logits",
                                         "gradient_checkpointing",
                                         "num_labels",
                                         "id2label",
                                         "label2id",
                                         "problem_type",
                                         "finetuning_task",
                                         "task_specific_params",
                                         "unsloth_training",
                                         "initializer_factor",
                                         "residual_dropout"};
// How another program computes the same, or what it hands back.
constexpr std::array<Keys, 23> kRuntime{"use_cache",
                                        "pretraining_tp",
                                        "attn_implementation",
                                        "_attn_implementation",
                                        "_attn_implementation_autoset",
                                        "_attn_implementation_internal",
                                        "_experts_implementation",
                                        "_flash_attn_2_enabled",
                                        "use_flash_attn",
                                        "use_flash_attention_2",
                                        "ep_size",
                                        "torchscript",
                                        "chunk_size_feed_forward",
                                        "tf_legacy_loss",
                                        "use_bfloat16",
                                        "return_dict",
                                        "output_attentions",
                                        "output_hidden_states",
                                        "is_decoder",
                                        "pruned_heads",
                                        "use_return_dict",
                                        "fuse_qkv",
                                        "cache_implementation"};
// Settings of generation, which this program takes from its own options, and tokens that no weight depends on.
constexpr std::array<Keys, 35> kGeneration{"bos_token_id",
                                           "pad_token_id",
                                           "sep_token_id",
                                           "unk_token_id",
                                           "decoder_start_token_id",
                                           "temperature",
                                           "top_p",
                                           "top_k",
                                           "typical_p",
                                           "repetition_penalty",
                                           "length_penalty",
                                           "max_length",
                                           "min_length",
                                           "max_new_tokens",
                                           "do_sample",
                                           "early_stopping",
                                           "num_beams",
                                           "num_beam_groups",
                                           "diversity_penalty",
                                           "no_repeat_ngram_size",
                                           "encoder_no_repeat_ngram_size",
                                           "bad_words_ids",
                                           "num_return_sequences",
                                           "output_scores",
                                           "return_dict_in_generate",
                                           "forced_bos_token_id",
                                           "forced_eos_token_id",
                                           "remove_invalid_values",
                                           "exponential_decay_length_penalty",
                                           "suppress_tokens",
                                           "begin_suppress_tokens",
                                           "prefix",
                                           "stop_token_ids",
                                           "chat_template",
                                           "keys_to_ignore_at_inference"};

// Fields that ask for nothing when they have one value.
constexpr std::array<NeutralField, 24> kNeutral{{{"is_encoder_decoder", "false"},
                                                 {"add_cross_attention", "false"},
                                                 {"cross_attention_hidden_size", "null"},
                                                 {"tie_encoder_decoder", "false"},
                                                 {"use_bidirectional_attention", "false"},
                                                 {"is_causal", "true"},
                                                 {"rope_interleaved", "false"},
                                                 {"use_mrope", "false"},
                                                 {"use_qk_norm", "false"},
                                                 {"qk_layernorm", "false"},
                                                 {"qkv_bias", "false"},
                                                 {"attention_out_bias", "false"},
                                                 {"use_parallel_residual", "false"},
                                                 {"parallel_attn", "false"},
                                                 {"logits_scaling", "1.0"},
                                                 {"logit_scale", "1.0"},
                                                 {"embedding_multiplier", "1.0"},
                                                 {"residual_multiplier", "1.0"},
                                                 {"position_embedding_type", "\"rope\""},
                                                 {"moe_layer_freq", "1"},
                                                 {"shared_expert_intermediate_size", "0"},
                                                 {"attention_chunk_size", "0"},
                                                 {"hidden_activation", "\"silu\""},
                                                 {"mtp_num_hidden_layers", "0"}}};

bool neutral(std::span<const NeutralField> fields, const std::string& key, const Json& value) {
  return std::any_of(fields.begin(), fields.end(),
                     [&](const NeutralField& known) { return known.key == key && value == Json::parse(known.value); });
}

bool holds(std::span<const Keys> keys, const std::string& key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

}  // namespace

void check_config_keys(const JsonObject& config, const Architecture& architecture) {
  for (const auto& [key, value] : config.json().items()) {
    if (value.is_null() || holds(kUsed, key) || holds(kOrigin, key) || holds(kTraining, key) || holds(kRuntime, key) ||
        holds(kGeneration, key) || holds(architecture.keys, key) || neutral(kNeutral, key, value) ||
        neutral(architecture.neutral, key, value) ||
        std::any_of(architecture.unread.begin(), architecture.unread.end(),
                    [&name = key](const NeutralField& field) { return field.key == name; })) {
      continue;
    }
    std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: field {} is {}, which is not one that we know, so that the model might not be what it "
                            "asks for",
                            config.where(), key, text));
  }
}

}  // namespace metal_marlin

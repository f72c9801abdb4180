// What GLM's later models have of DeepSeek's: latent attention, experts in groups, layers for the next tokens.
#pragma once

#include "models/families/family.h"

namespace metal_marlin {

inline constexpr FieldNames kRoutedExpertNames{"n_routed_experts", "num_local_experts"};
// Of layers that predict; the reference implementation has one where both are left out.
inline constexpr FieldNames kPredictionLayerNames{"num_mtp_layers", "num_nextn_predict_layers"};

// usual: what is left out. rope_dim_key: what the rotated part's width is called.
LatentConfig parse_latent(const JsonObject& config, const char* rope_dim_key, const LatentConfig& usual);
// Experts chosen by sigmoids and a bias (arXiv 2412.19437). usual: what is left out.
MoeConfig parse_sigmoid_experts(const JsonObject& config, const MoeConfig& usual);
// All layers have experts but the first, as many as first_k_dense_replace says.
void parse_dense_beginning(const JsonObject& config, std::int64_t usual, ModelConfig& out);
void parse_prediction_layers(const JsonObject& config, ModelConfig& out);

}  // namespace metal_marlin

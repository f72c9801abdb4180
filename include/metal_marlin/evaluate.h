/// \file
/// Perplexity of a model on a text, and its distance from a reference model.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "metal_marlin/model.h"

namespace metal_marlin {

struct EvaluateOptions {
  int context = 512;
  /// 0: llama.cpp's convention, disjoint windows of `context` tokens of which
  /// the second half is scored. Otherwise Hugging Face's: windows that advance
  /// by `stride`, at most the context, each scoring the tokens that no window before it did.
  int stride = 0;
  /// Replaces the first token of every disjoint window, as llama.cpp does with
  /// models that begin each text with BOS.
  std::optional<TokenId> first_token;
  std::string adapter;                     ///< of the model's, by name; empty: none
  std::shared_ptr<const Model> reference;  ///< null: perplexity only
  /// The reference's logits are kept in this file, with what they are of in FILE.json: read if it is
  /// there, so that no reference is needed, else written. 4 bytes a scored token and word. Empty: not kept.
  std::filesystem::path reference_cache;
  std::function<bool(std::int64_t done, std::int64_t total)> progress;  ///< windows; false: stop
};

/// Whether the reference's logits are kept already, so that no reference is needed.
bool reference_is_cached(const EvaluateOptions& options);

struct Divergence {
  double mean_kl = 0;        ///< of the model from the reference, in nats
  double mean_kl_error = 0;  ///< standard error
  double top1_agreement = 0;
  double reference_perplexity = 0;
};

struct Evaluation {
  double perplexity = 0;
  double perplexity_error = 0;  ///< standard error
  double nll = 0;               ///< mean, in nats a token
  std::int64_t scored_tokens = 0;
  std::int64_t windows = 0;
  double tokens_per_second = 0;
  std::optional<Divergence> divergence;
};

/// \throws Error (kInvalidArgument) when the text is so short that no token is scored, the stride leaves tokens out or
/// the models' vocabularies differ; (kCorruptFile) when logits or the perplexity are not finite; (kCancelled).
Evaluation evaluate(const std::shared_ptr<const Model>& model, std::span<const TokenId> tokens,
                    const EvaluateOptions& options);

}  // namespace metal_marlin

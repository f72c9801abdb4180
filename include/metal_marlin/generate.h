/// \file
/// Text generation: prompt in, tokens out as they come.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "metal_marlin/grammar.h"
#include "metal_marlin/model.h"
#include "metal_marlin/sampler.h"
#include "metal_marlin/speculation.h"

namespace metal_marlin {

struct GenerateOptions {
  int max_tokens = 128;
  SamplerOptions sampler;
  std::vector<std::string> stop;  ///< Text that ends the generation; not part of the output.
  bool ignore_end = false;        ///< Go on past end-of-text tokens.
  /// The text is one of these, or begins one: it ends where nothing may follow (kEndToken, as at an end token).
  std::shared_ptr<const Grammar> grammar;
  std::optional<GrammarThought> thought;  ///< What may come before the grammar's text.
  SpeculationOptions speculation;
  std::string adapter;  ///< Of those that the model was loaded with, by name; empty: none.
  /// A file of write_sequence(): what it has of the beginning of the prompt is not computed. Where it is not there, or
  /// does not have all of the prompt, it is written when the prompt was computed. Empty: none.
  std::filesystem::path prompt_cache;
  bool prompt_cache_read_only = false;  ///< It must be there, and is not written.
};

enum class StopReason : std::uint8_t { kLength, kEndToken, kStopText, kCancelled };
/// "length", "end", "stop", "cancelled"
const char* stop_reason_name(StopReason reason);

struct GenerateResult {
  std::vector<TokenId> tokens;  ///< An end token is not among them.
  std::string text;             ///< Empty when the model has no tokenizer.
  StopReason reason = StopReason::kLength;
  std::size_t prompt_tokens = 0;
  std::size_t cached_tokens = 0;  ///< of the prompt, that the file had
  double prompt_seconds = 0;
  double decode_seconds = 0;  ///< for tokens after the first
  SpeculationStats speculation;
};

/// Called after each token with the text that is now certain to be output, which
/// may be empty; returning false ends the generation.
using OnText = std::function<bool(std::string_view text)>;

/// Continues `prompt`. An empty prompt is an error, as there is nothing to continue.
/// \throws Error as Session::step does.
GenerateResult generate(const std::shared_ptr<const Model>& model, std::span<const TokenId> prompt,
                        const GenerateOptions& options, const OnText& on_text = {});

}  // namespace metal_marlin

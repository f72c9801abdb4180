// What Model and Session share.
#pragma once

#include "backends/backend.h"
#include "base/thread_pool.h"
#include "metal_marlin/model.h"
#include "models/config.h"
#include "runtime/sequence_file.h"

namespace metal_marlin {

struct Model::Impl {
  std::shared_ptr<Backend> backend;  // first: outlives what it prepared
  ModelInfo info;
  ModelConfig config;
  Plan plan;  // shapes only; the backend holds its own copy
  CacheType cache = CacheType::kF16;
  std::size_t cache_page_bytes = 0;
  std::int64_t most_cache_pages = 0;
  std::shared_ptr<const PreparedModel> prepared;
  std::shared_ptr<const Model> prediction;     // its layer for the next tokens, with weights of this one; null: none
  std::shared_ptr<const Tokenizer> tokenizer;  // null: none
  std::string path;
  ModelIdentity identity;

  // adapters: that sequences of the plan may have.
  void prepare_on_backend(const Checkpoint& checkpoint, Activations activations, const LoadProgress& progress,
                          const std::shared_ptr<const PreparedModel>& shared, std::span<const Adapter> adapters);
  [[nodiscard]] std::shared_ptr<const Model> load_prediction(const Checkpoint& checkpoint, Activations activations,
                                                             const LoadProgress& progress) const;
  // Of a model with its weights and info.
  [[nodiscard]] ModelIdentity identify(const Checkpoint& checkpoint, Activations activations,
                                       std::span<const Adapter> adapters) const;
  // Of those that the model was loaded with; empty: kNoAdapter. \throws Error (kNotFound) naming them.
  [[nodiscard]] int adapter(const std::string& name) const;
};

// A model's tokenizer; null: it has none.
std::shared_ptr<const Tokenizer> tokenizer_of(const Checkpoint& checkpoint, const Tokenizer::Notice& notice = {});

// What a session's runner is made for.
RunnerLimits runner_limits(const SessionOptions& options, std::int64_t pages);

}  // namespace metal_marlin

#include "metal_marlin/model.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/registry.h"
#include "base/shared_pool.h"
#include "io/checkpoint.h"
#include "metal_marlin/error.h"
#include "models/architectures.h"
#include "models/consumed.h"
#include "models/generation_config.h"
#include "runtime/model_impl.h"
#include "tokenizer/tokenizer_config.h"

namespace metal_marlin {
std::shared_ptr<const Tokenizer> tokenizer_of(const Checkpoint& checkpoint, const Tokenizer::Notice& notice) {
  const auto files = checkpoint.tokenizer_files();
  const auto text_of = [&](std::string_view wanted) -> std::string_view {
    const auto found = std::find_if(files.begin(), files.end(), [&](const auto& file) { return file.first == wanted; });
    return found == files.end() ? std::string_view() : found->second;
  };
  const std::string_view json = text_of("tokenizer.json");
  if (json.empty()) return nullptr;
  const std::string where = checkpoint.where() + "/tokenizer.json";
  const std::string config = join_tokenizer_config(text_of("tokenizer_config.json"), text_of("special_tokens_map.json"),
                                                   text_of("added_tokens.json"), where);
  return Tokenizer::from_json(json, where, config, notice);
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;
const ModelInfo& Model::info() const {
  return impl_->info;
}

std::shared_ptr<const Tokenizer> Model::tokenizer() const {
  if (!impl_->tokenizer) throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", impl_->path));
  return impl_->tokenizer;
}

std::shared_ptr<const Model> Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  CheckpointOptions checkpoint_options;
  checkpoint_options.gguf_to_f16 = options.gguf_to_f16;
  checkpoint_options.notice = options.notice;
  const std::unique_ptr<Checkpoint> checkpoint = open_checkpoint(path, checkpoint_options);
  auto impl = std::make_unique<Impl>();
  impl->path = path.string();
  impl->config = read_model_config(*checkpoint, options.notice);
  impl->plan = build_plan(impl->config);
  require_consumed(*checkpoint, impl->plan, options.notice);
  const auto& weights = checkpoint->weights();
  if (options.notice && std::any_of(weights.begin(), weights.end(), [&](const WeightInfo& weight) {
        return is_prediction_weight(impl->config, weight.name);
      })) {
    options.notice(fmt::format("{}: {}", path.string(), kPredictionNotice));
  }
  impl->cache = !options.kv_cache.empty() ? parse_cache_type(options.kv_cache)
                : options.exact           ? CacheType::kF32
                                          : CacheType::kF16;
  const std::shared_ptr<ThreadPool> pool = shared_pool(options.threads);
  impl->backend = make_backend(options.backend, {pool, options.instruction_set});
  const Activations activations = options.exact ? Activations::kF32 : Activations::kInt8;
  const RunnerLimits least{.tokens = 1};  // a session asks for its own memory
  const MemoryEstimate memory =
      impl->backend->estimate_memory(impl->plan, *checkpoint, activations, least, impl->cache);
  impl->backend->require_memory(memory.weights + memory.workspace + memory.cache_page,
                                "loading the weights of " + impl->path);
  impl->cache_page_bytes = memory.cache_page;
  impl->most_cache_pages = memory.most_cache_pages;
  impl->prepared = impl->backend->prepare(impl->plan, *checkpoint, {activations, options.progress});
  impl->tokenizer = tokenizer_of(*checkpoint, options.notice);
  impl->info = {impl->config.model_type,
                checkpoint->kind(),
                impl->config.vocab,
                impl->config.layers,
                impl->config.hidden,
                impl->config.max_positions,
                impl->prepared->weight_bytes(),
                {impl->config.end_tokens.begin(), impl->config.end_tokens.end()},
                impl->backend->name(),
                impl->backend->device(),
                std::string(cache_type_name(impl->cache)),
                pool->size(),
                parse_generation_config(checkpoint->generation_config(), checkpoint->where())};
  return std::shared_ptr<const Model>(new Model(std::move(impl)));
}

}  // namespace metal_marlin

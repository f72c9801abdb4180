#include "metal_marlin/model.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/cpu/cpu_backend.h"
#if METAL_MARLIN_MSL
#include "backends/msl/devices.h"
#include "backends/msl/msl_backend.h"
#endif
#include "base/memory.h"
#include "io/checkpoint.h"
#include "metal_marlin/error.h"
#include "models/architectures.h"
#include "models/consumed.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
std::shared_ptr<const Tokenizer> tokenizer_of(const Checkpoint& checkpoint) {
  const std::string* json = nullptr;
  std::string_view config;
  const auto files = checkpoint.tokenizer_files();
  for (const auto& [name, text] : files) {
    if (name == "tokenizer.json") json = &text;
    if (name == "tokenizer_config.json") config = text;
  }
  if (json == nullptr) return nullptr;
  return Tokenizer::from_json(*json, checkpoint.where() + "/tokenizer.json", config);
}

// Loads the weights into the backend; what it runs on.
std::string Model::prepare(Impl& impl, const Checkpoint& checkpoint, const LoadOptions& options) {
  const Activations activations = options.exact ? Activations::kF32 : Activations::kInt8;
  if (options.backend != "cpu") {
#if METAL_MARLIN_MSL
    std::shared_ptr<msl::Device> device = msl::make_device(options.backend);
    std::string name = device->name();
    impl.prepared = msl::prepare(impl.plan, checkpoint, std::move(device), *impl.pool, {activations, options.progress});
    return name;
#else
    throw Error(ErrorCode::kNotFound,
                fmt::format("no backend {} in this program, which is built without Metal shaders; there is cpu",
                            options.backend));
#endif
  }
  require_memory(cpu::estimate_weight_bytes(impl.plan, checkpoint), "loading the weights of " + impl.path);
  const cpu::Kernels& kernels = options.instruction_set.empty() ? *cpu::available_kernels().front()
                                                                : cpu::find_kernels(options.instruction_set.c_str());
  impl.prepared = cpu::prepare(impl.plan, checkpoint, *impl.pool, {activations, &kernels, options.progress});
  return kernels.name;
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
  impl->config = parse_model_config(checkpoint->config(), checkpoint->generation_config(), checkpoint->where());
  impl->plan = build_plan(impl->config);
  require_consumed(*checkpoint, impl->plan);
  const auto& weights = checkpoint->weights();
  if (options.notice && std::any_of(weights.begin(), weights.end(), [&](const WeightInfo& weight) {
        return is_prediction_weight(impl->config, weight.name);
      })) {
    options.notice(fmt::format("{}: {}", path.string(), kPredictionNotice));
  }
  impl->pool = std::make_unique<ThreadPool>(options.threads);
  impl->cache = !options.kv_cache.empty() ? parse_cache_type(options.kv_cache)
                : options.exact           ? CacheType::kF32
                                          : CacheType::kF16;
  const std::string device = prepare(*impl, *checkpoint, options);
  impl->tokenizer = tokenizer_of(*checkpoint);
  impl->info = {
    impl->config.model_type,
    checkpoint->kind(),
    impl->config.vocab,
    impl->config.layers,
    impl->config.hidden,
    impl->config.max_positions,
    impl->prepared->weight_bytes(),
    {impl->config.end_tokens.begin(), impl->config.end_tokens.end()},
#if METAL_MARLIN_MSL
    msl::resolve_device(options.backend),
#else
    options.backend,
#endif
    device,
    std::string(cache_type_name(impl->cache)),
    impl->pool->size()
  };
  return std::shared_ptr<const Model>(new Model(std::move(impl)));
}

}  // namespace metal_marlin

#include "metal_marlin/model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "backends/registry.h"
#include "base/shared_pool.h"
#include "io/checkpoint.h"
#include "io/fingerprint.h"
#include "io/peft_adapter.h"
#include "metal_marlin/error.h"
#include "models/adapters.h"
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

int Model::Impl::adapter(const std::string& name) const {
  if (name.empty()) return kNoAdapter;
  const auto found = std::find(info.adapters.begin(), info.adapters.end(), name);
  if (found != info.adapters.end()) return static_cast<int>(found - info.adapters.begin());
  throw Error(
      ErrorCode::kNotFound,
      fmt::format("{}: adapter {} was not loaded; there {}", path, name,
                  info.adapters.empty() ? "is none" : "is " + fmt::format("{}", fmt::join(info.adapters, ", "))));
}

namespace {

std::vector<Adapter> load_adapters(const std::vector<AdapterOptions>& options, const Plan& plan,
                                   const Checkpoint& checkpoint, ThreadPool& pool) {
  std::vector<Adapter> out;
  for (const AdapterOptions& each : options) {
    if (each.name.empty())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("adapter {} has no name", each.path.string()));
    if (std::any_of(out.begin(), out.end(), [&](const Adapter& other) { return other.name == each.name; }))
      throw Error(ErrorCode::kInvalidArgument, fmt::format("two adapters are called {}", each.name));
    if (!std::isfinite(each.scale))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("adapter {}: scale is {}, expected a number", each.name, each.scale));
    out.push_back(bind_adapter(PeftAdapter(each.path), each.name, each.scale, plan, checkpoint, pool));
  }
  return out;
}

}  // namespace

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;
const ModelInfo& Model::info() const {
  return impl_->info;
}

std::shared_ptr<const Tokenizer> Model::tokenizer() const {
  if (!impl_->tokenizer) throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", impl_->path));
  return impl_->tokenizer;
}

// Of an impl that has a backend, a plan and a cache type. shared: whose matrices stand for its own, or null.
void Model::Impl::prepare_on_backend(const Checkpoint& checkpoint, Activations activations,
                                     const LoadProgress& progress, const std::shared_ptr<const PreparedModel>& shared,
                                     std::span<const Adapter> adapters) {
  const RunnerLimits least{.tokens = 1};  // a session asks for its own memory
  Plan own = plan;
  if (shared) {
    std::erase_if(own.ops, [](const Op& op) {
      const auto* const linear = op.as<LinearOp>();
      return op.as<EmbeddingOp>() != nullptr || (linear != nullptr && linear->role.part == ModelPart::kHead);
    });
  }
  const MemoryEstimate memory = backend->estimate_memory(own, checkpoint, activations, least, cache);
  backend->require_memory(memory.weights + memory.workspace + memory.cache_page + adapter_bytes(adapters),
                          "loading the weights of " + path);
  cache_page_bytes = memory.cache_page;
  most_cache_pages = memory.most_cache_pages;
  prepared = backend->prepare(plan, checkpoint, {activations, progress, shared, adapters});
}

// The first of the model's layers for the next tokens; null: it has none.
std::shared_ptr<const Model> Model::Impl::load_prediction(const Checkpoint& checkpoint, Activations activations,
                                                          const LoadProgress& progress) const {
  if (prediction_layers(config, checkpoint) == 0) return nullptr;
  require_same_copies(config, checkpoint);
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->config = config;
  impl->plan = build_prediction_plan(config);
  impl->backend = backend;
  impl->cache = cache;
  impl->prepare_on_backend(checkpoint, activations, progress, prepared, {});  // guesses do without adapters
  impl->info.vocab = config.vocab;
  impl->info.hidden = config.hidden;
  impl->info.max_positions = config.max_positions;
  impl->info.weight_bytes = impl->prepared->weight_bytes();
  return std::shared_ptr<const Model>(new Model(std::move(impl)));
}

ModelIdentity Model::Impl::identify(const Checkpoint& checkpoint, Activations activations,
                                    std::span<const Adapter> adapters) const {
  std::vector<std::string> weights;
  for (const PlannedWeight& weight : planned_weights(plan)) weights.push_back(weight.name);
  ModelIdentity out;
  out.vocab = config.vocab;
  out.page_bytes = cache_page_bytes;
  // All that run shaders lay pages out alike.
  const std::string layout = info.backend.starts_with("msl") ? "msl" : info.backend;
  out.fields = {
      {"architecture", info.architecture},
      {"shape", fmt::format("{} layers, hidden size {}, vocabulary {}", config.layers, config.hidden, config.vocab)},
      {"weights", fmt::format("{:016x}", fingerprint_of(checkpoint, weights))},
      {"activations", activations == Activations::kF32 ? "exact" : "rounded"},
      {"kv_cache", info.kv_cache},
      {"page_layout", fmt::format("{}, {} tokens in {} bytes", layout, kCachePageTokens, cache_page_bytes)}};
  for (const Adapter& adapter : adapters) out.adapters.emplace_back(adapter.name, adapter_identity(adapter));
  return out;
}

std::shared_ptr<const Model> Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  CheckpointOptions checkpoint_options;
  checkpoint_options.gguf_to_f16 = options.gguf_to_f16;
  checkpoint_options.notice = options.notice;
  const std::unique_ptr<Checkpoint> checkpoint = open_checkpoint(path, checkpoint_options);
  auto impl = std::make_unique<Impl>();
  impl->path = path.string();
  impl->config = read_model_config(*checkpoint, options.notice);
  impl->plan = build_plan(impl->config, options.prediction && prediction_layers(impl->config, *checkpoint) > 0);
  require_consumed(*checkpoint, impl->plan, options.notice);
  impl->cache = !options.kv_cache.empty() ? parse_cache_type(options.kv_cache)
                : options.exact           ? CacheType::kF32
                                          : CacheType::kF16;
  const std::shared_ptr<ThreadPool> pool = shared_pool(options.threads);
  impl->backend = make_backend(options.backend, {pool, options.instruction_set});
  const Activations activations = options.exact ? Activations::kF32 : Activations::kInt8;
  const std::vector<Adapter> adapters = load_adapters(options.adapters, impl->plan, *checkpoint, *pool);
  impl->prepare_on_backend(*checkpoint, activations, options.progress, nullptr, adapters);
  if (options.prediction) impl->prediction = impl->load_prediction(*checkpoint, activations, options.progress);
  impl->tokenizer = tokenizer_of(*checkpoint, options.notice);
  impl->info = {impl->config.model_type,
                checkpoint->kind(),
                impl->config.vocab,
                impl->config.layers,
                impl->prediction ? 1 : 0,
                impl->config.hidden,
                impl->config.max_positions,
                impl->prepared->weight_bytes() + (impl->prediction ? impl->prediction->info().weight_bytes : 0),
                {impl->config.end_tokens.begin(), impl->config.end_tokens.end()},
                {},
                impl->backend->name(),
                impl->backend->device(),
                std::string(cache_type_name(impl->cache)),
                pool->size(),
                parse_generation_config(checkpoint->generation_config(), checkpoint->where())};
  for (const Adapter& adapter : adapters) impl->info.adapters.push_back(adapter.name);
  impl->identity = impl->identify(*checkpoint, activations, adapters);
  return std::shared_ptr<const Model>(new Model(std::move(impl)));
}

}  // namespace metal_marlin

#include "metal_marlin/inspect.h"

#include <nlohmann/json.hpp>

#include "backends/cpu/kernels.h"
#if METAL_MARLIN_MSL
#include "backends/msl/host/host_device.h"
#endif
#include "backends/registry.h"
#include "base/shared_pool.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "metal_marlin/error.h"
#include "metal_marlin/model.h"
#include "models/architectures.h"
#include "models/config.h"

namespace metal_marlin {
namespace {

MemoryNeed memory_need(const Checkpoint& checkpoint) {
  const ModelConfig config = read_model_config(checkpoint);
  const SessionOptions session;
  RunnerLimits limits;
  limits.tokens = session.batch_tokens;
  limits.selected = session.batch_logits;
  limits.sequences = session.max_sequences;
  const MemoryEstimate estimate =
      make_backend("cpu", {shared_pool(1), ""})
          ->estimate_memory(build_plan(config), checkpoint, Activations::kInt8, limits, CacheType::kF16);
  return {estimate.weights, estimate.workspace, estimate.cache_page / kCachePageTokens};
}

}  // namespace

Inspection inspect(const std::filesystem::path& path) {
  const std::unique_ptr<Checkpoint> checkpoint = open_checkpoint(path);
  Inspection out;
  out.kind = checkpoint->kind();
  out.architecture = JsonObject(checkpoint->config(), checkpoint->where()).string_or("model_type", "unknown");
  out.config_json = checkpoint->config().dump(2);
  for (const WeightInfo& info : checkpoint->weights()) {
    InspectedTensor tensor{info.name, info.shape, info.stored_as, "", "", info.bytes, 0};
    if (info.packed) {
      tensor.group = group_name(info.packed->group);
      tensor.scale_type = scale_type_name(info.packed->scale_type);
    }
    const std::int64_t count = element_count(info.shape).value_or(0);
    if (count > 0) tensor.bits_per_weight = 8.0 * static_cast<double>(info.bytes) / static_cast<double>(count);
    out.weights += count;
    out.bytes += info.bytes;
    out.tensors.push_back(std::move(tensor));
  }
  try {
    out.memory = memory_need(*checkpoint);
  } catch (const Error& error) {
    out.not_run = error.what();
  }
  return out;
}

const char* version() {
  return METAL_MARLIN_VERSION;
}

Status status() {
  Status out;
  out.version = version();
  out.backends = available_backends();
#if METAL_MARLIN_MSL
  out.metallib = msl::host_kernels();
#endif
  for (const cpu::Kernels* const table : cpu::available_kernels()) out.instruction_sets.emplace_back(table->name);
  out.threads = usable_cores();
  for (const FormatInfo& info : all_formats()) {
    if (info.selectable) out.formats.emplace_back(info.name);
  }
  out.architectures = known_architectures();
  return out;
}

}  // namespace metal_marlin

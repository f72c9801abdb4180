#include "backends/backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/finite.h"
#include "base/memory.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

Plan with_rotations(const Plan& plan, const Checkpoint& checkpoint) {
  return with_rotations(plan, [&](const std::string& name) {
    const WeightInfo* const info = checkpoint.find(name);
    return info != nullptr && info->packed ? info->packed->rotation : 0;
  });
}

void load_weights(const Plan& plan, const Checkpoint& checkpoint, const LoadProgress& progress,
                  const std::function<void(const PlannedWeight&)>& load) {
  const std::vector<PlannedWeight> weights = planned_weights(plan);
  std::size_t total = 0;
  std::size_t done = 0;
  for (const PlannedWeight& planned : weights) {
    const WeightInfo& info = checkpoint.require(planned.name, planned.shape);
    if (info.packed && info.packed->sub_scale != SubScale::kNone)
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor {}: {}, which no backend computes with", checkpoint.where(planned.name),
                              planned.name, format_label(*info.packed)));
    total += info.bytes;
  }
  for (const PlannedWeight& planned : weights) {
    load(planned);
    done += checkpoint.require(planned.name, planned.shape).bytes;
    if (progress && !progress(done, total)) throw Error(ErrorCode::kCancelled, "loading was cancelled");
  }
}

void sequence_frequencies(const RopeTable& rope, const SequenceSlice& sequence, std::span<float> out) {
  rope.frequencies_of(std::max(sequence.length, sequence.past + sequence.count), out);
}

std::vector<float> load_vector(const Checkpoint& checkpoint, const PlannedWeight& planned, ThreadPool& pool) {
  std::vector<float> values(static_cast<std::size_t>(planned.shape[0]));
  checkpoint.load(planned.name, pool).decode_row(0, planned.shape[0], values.data());
  if (planned.added != 0) {
    for (float& value : values) value += planned.added;
  }
  return values;
}

void sample_rows(const float* logits, std::int64_t vocab, std::span<Sampler* const> samplers, std::span<TokenId> next) {
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    const std::span row(logits + static_cast<std::int64_t>(i) * vocab, static_cast<std::size_t>(vocab));
    next[i] = samplers[i] != nullptr && all_finite(row) ? samplers[i]->sample(row) : -1;
  }
}

void Backend::require_memory(std::size_t needed, const std::string& what) const {
  metal_marlin::require_memory(needed, available_memory(), what);
}

}  // namespace metal_marlin

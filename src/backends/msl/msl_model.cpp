#include "backends/msl/msl_model.h"

#include <algorithm>
#include <functional>

#include "backends/msl/measuring_device.h"
#include "backends/msl/msl_runner.h"

namespace metal_marlin::msl {

void MslModel::load(const Checkpoint& checkpoint, ThreadPool& pool, const LoadProgress& progress,
                    const MslModel* shared) {
  std::map<std::string, std::function<void()>> parts;  // by the last of the weights that they are made of
  for (const Op& op : plan_.ops) {
    if (const auto* const latent = op.as<LatentAttentionOp>()) {
      parts[latent->expand] = [&, latent, layer = op.layer] {
        latents_[layer] = std::make_unique<LatentAttention>(*device_, *latent, checkpoint.load(latent->expand, pool),
                                                            activations_, pool);
      };
    } else if (const auto* const moe = op.as<MoeOp>()) {
      for (std::int64_t i = 0; i < moe->experts; ++i) {
        for (const char* const projection : {"gate", "up", "down"}) {
          parts[expert_weight(*moe, i, projection)] = {};
          if (moe->biases) parts[expert_bias(*moe, i, projection)] = {};
        }
      }
      parts[expert_weight(*moe, moe->experts - 1, "down")] = [&, moe, layer = op.layer] {
        load_experts(*moe, layer, checkpoint, pool);
      };
    }
  }
  if (const std::int64_t widest = widest_bare_norm(plan_); widest > 0)
    ones_ = device_->allocate_with(std::vector<float>(static_cast<std::size_t>(widest), 1.0F));
  load_weights(plan_, checkpoint, progress, [&](const PlannedWeight& planned) {
    if (shared != nullptr && shared->matrices_.contains(planned.name)) {
      matrices_[planned.name] = shared->matrices_.at(planned.name);
      shared_.insert(planned.name);
      return;
    }
    const auto part = parts.find(planned.name);
    if (part == parts.end()) {
      load(checkpoint, planned, pool);
    } else if (part->second) {
      part->second();
    }
  });
}

void MslModel::load(const Checkpoint& checkpoint, const PlannedWeight& planned, ThreadPool& pool) {
  if (planned.matrix) {
    auto& matrix = matrices_[planned.name];
    matrix = std::make_shared<Linear>(*device_, planned.name, checkpoint.load(planned.name, pool), planned.shape[0],
                                      planned.shape[1], pool);
    matrix->tune(tuned_);
  } else {
    const std::vector<float> values = load_vector(checkpoint, planned, pool);
    if (values.size() == 1) scalars_[planned.name] = values.front();
    vectors_[planned.name] = device_->allocate_with(values);
  }
}

void MslModel::load_experts(const MoeOp& op, int layer, const Checkpoint& checkpoint, ThreadPool& pool) {
  Experts::LoadBias load_bias;
  if (op.biases) {
    load_bias = [&](std::int64_t expert, const char* projection) {
      const std::int64_t rows = std::string_view(projection) == "down" ? plan_.width(op.out) : op.intermediate;
      return load_vector(checkpoint, {expert_bias(op, expert, projection), {rows}}, pool);
    };
  }
  experts_[layer] = std::make_unique<Experts>(
      *device_, op.prefix, op.experts, plan_.width(op.in), op.intermediate,
      [&](std::int64_t expert, const char* projection) {
        return checkpoint.load(expert_weight(op, expert, projection), pool);
      },
      pool, load_bias);
}

void MslModel::load_adapters(std::span<const Adapter> adapters) {
  const auto pairs_of = [&](std::map<std::string, LowRank> Adapter::*kind, const std::string& weight) {
    std::vector<const LowRank*> pairs;
    for (const Adapter& adapter : adapters) {
      const auto found = (adapter.*kind).find(weight);
      pairs.push_back(found == (adapter.*kind).end() ? nullptr : &found->second);
      if (pairs.back() != nullptr) most_rank_ = std::max(most_rank_, pairs.back()->rank);
    }
    const bool any = std::any_of(pairs.begin(), pairs.end(), [](const LowRank* pair) { return pair != nullptr; });
    return any ? pairs : std::vector<const LowRank*>();
  };
  for (const Op& op : plan_.ops) {
    if (const auto* const linear = op.as<LinearOp>()) {
      const auto pairs = pairs_of(&Adapter::linears, linear->weight);
      if (!pairs.empty())
        low_ranks_.try_emplace(linear->weight, *device_, pairs, plan_.width(linear->in), plan_.width(linear->out));
    } else if (const auto* const embedding = op.as<EmbeddingOp>()) {
      const auto pairs = pairs_of(&Adapter::embeddings, embedding->weight);
      if (!pairs.empty())
        embedding_low_ranks_.try_emplace(embedding->weight, *device_, pairs, embedding->vocab,
                                         plan_.width(embedding->out));
    }
  }
}

std::size_t MslModel::weight_bytes() const {
  std::size_t bytes = 0;
  for (const auto& [name, matrix] : matrices_) bytes += shared_.contains(name) ? 0 : matrix->bytes();
  for (const auto& [name, vector] : vectors_) bytes += vector->size();
  for (const auto& [weight, stack] : low_ranks_) bytes += stack.bytes();
  for (const auto& [weight, stack] : embedding_low_ranks_) bytes += stack.bytes();
  if (ones_) bytes += ones_->size();
  for (const auto& [layer, latent] : latents_) bytes += latent->bytes();
  for (const auto& [layer, experts] : experts_) bytes += experts->bytes();
  return bytes;
}

std::unique_ptr<Runner> MslModel::make_runner(const RunnerLimits& limits, CacheType cache) const {
  return msl::make_runner(*this, *device_, limits, cache);
}

std::size_t MslModel::workspace_bytes(const RunnerLimits& limits, CacheType cache) const {
  MeasuringDevice measuring(*device_);
  const std::unique_ptr<Runner> measured = msl::make_runner(*this, measuring, limits, cache);
  return measuring.bytes() - static_cast<std::size_t>(limits.pages) * cache_page_bytes(plan_.caches, cache);
}

std::size_t MslModel::estimate_weights(const Checkpoint& checkpoint) const {
  auto bytes = static_cast<std::size_t>(widest_bare_norm(plan_)) * sizeof(float);
  std::map<std::string, const LatentAttentionOp*> latents;  // by weight
  for (const Op& op : plan_.ops) {
    if (const auto* const latent = op.as<LatentAttentionOp>()) latents[latent->expand] = latent;
  }
  for (const PlannedWeight& planned : planned_weights(plan_)) {
    const WeightInfo& info = checkpoint.require(planned.name, planned.shape);
    const auto latent = latents.find(planned.name);
    if (latent != latents.end()) {
      bytes += LatentAttention::bytes_of(*latent->second, info, activations_);
    } else {
      bytes += planned.matrix ? matrix_bytes(info, planned.shape[0], planned.shape[1])
                              : static_cast<std::size_t>(planned.shape[0]) * sizeof(float);
    }
  }
  return bytes;
}

}  // namespace metal_marlin::msl

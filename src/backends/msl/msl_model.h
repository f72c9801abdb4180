// A plan's weights on a device, and the runners that compute with them.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>

#include "backends/backend.h"
#include "backends/msl/device.h"
#include "backends/msl/experts.h"
#include "backends/msl/latent_attention.h"
#include "backends/msl/linear.h"
#include "backends/msl/low_rank.h"

namespace metal_marlin::msl {

class MslModel final : public PreparedModel {
 public:
  MslModel(Plan plan, std::shared_ptr<Device> device, Activations activations)
      : plan_(std::move(plan)), device_(std::move(device)), activations_(activations) {}

  // \throws Error naming a weight that is missing or of another shape.
  // shared: a model whose matrices are not loaded again, or null
  void load(const Checkpoint& checkpoint, ThreadPool& pool, const LoadProgress& progress, const MslModel* shared);
  void load_adapters(std::span<const Adapter> adapters);
  // What load() will take.
  [[nodiscard]] std::size_t estimate_weights(const Checkpoint& checkpoint) const;

  [[nodiscard]] std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t workspace_bytes(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t weight_bytes() const override;

  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] Activations activations() const { return activations_; }
  [[nodiscard]] const Linear& matrix(const std::string& name) const { return *matrices_.at(name); }
  // Null where the name is empty.
  [[nodiscard]] Buffer* vector(const std::string& name) const {
    return name.empty() ? nullptr : vectors_.at(name).get();
  }
  // What adapters add to a product with this weight, or to rows that are looked up in it; null: nothing.
  [[nodiscard]] const LowRankStack* low_rank(const std::string& weight) const { return added(low_ranks_, weight); }
  [[nodiscard]] const LowRankStack* embedding_low_rank(const std::string& weight) const {
    return added(embedding_low_ranks_, weight);
  }
  // Of all of them; 0: there are no adapters.
  [[nodiscard]] std::int64_t most_rank() const { return most_rank_; }
  [[nodiscard]] Buffer& norm_weight(const NormOp& op) const { return op.weight.empty() ? *ones_ : *vector(op.weight); }
  // Of one element; 1 where the name is empty.
  [[nodiscard]] float scalar(const std::string& name) const { return name.empty() ? 1 : scalars_.at(name); }
  [[nodiscard]] const LatentAttention& latent(int layer) const { return *latents_.at(layer); }
  [[nodiscard]] const Experts& experts(int layer) const { return *experts_.at(layer); }

 private:
  static const LowRankStack* added(const std::map<std::string, LowRankStack>& stacks, const std::string& weight) {
    const auto found = stacks.find(weight);
    return found == stacks.end() ? nullptr : &found->second;
  }
  void load(const Checkpoint& checkpoint, const PlannedWeight& planned, ThreadPool& pool);
  void load_experts(const MoeOp& op, int layer, const Checkpoint& checkpoint, ThreadPool& pool);

  Plan plan_;
  std::shared_ptr<Device> device_;
  Activations activations_;
  TunedTiles tuned_{TunedTiles::default_file()};
  std::map<std::string, std::shared_ptr<Linear>> matrices_;
  std::set<std::string> shared_;  // of these: another model's
  std::map<int, std::unique_ptr<LatentAttention>> latents_;
  std::map<int, std::unique_ptr<Experts>> experts_;
  std::map<std::string, std::unique_ptr<Buffer>> vectors_;
  std::map<std::string, LowRankStack> low_ranks_;  // by weight
  std::map<std::string, LowRankStack> embedding_low_ranks_;
  std::int64_t most_rank_ = 0;
  std::map<std::string, float> scalars_;  // of those, the ones that ops take as arguments
  std::unique_ptr<Buffer> ones_;          // of norms without a weight
};

}  // namespace metal_marlin::msl

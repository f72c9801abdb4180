#include "quantize/layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "backends/cpu/cpu_backend.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kStep = 512;  // tokens

// The layer that an op belongs to; -1: none. What has no weights goes with the op before it.
int layer_of(const Op& op, int before) {
  std::string name;
  if (const auto* const norm = std::get_if<RmsNormOp>(&op)) name = norm->weight;
  if (const auto* const linear = std::get_if<LinearOp>(&op)) name = linear->weight;
  if (const auto* const latent = std::get_if<LatentAttentionOp>(&op)) name = latent->expand;
  if (const auto* const moe = std::get_if<MoeOp>(&op)) name = moe->prefix;
  constexpr std::string_view kPrefix = "model.layers.";
  if (name.starts_with(kPrefix)) return std::stoi(name.substr(kPrefix.size()));
  const bool outside = !name.empty() || std::holds_alternative<EmbeddingOp>(op) || std::holds_alternative<SelectOp>(op);
  return outside ? -1 : before;
}

// The checkpoint with some weights replaced.
class Overlay final : public Checkpoint {
 public:
  Overlay(const Checkpoint& below, const PackedWeights& weights) : below_(below), weights_(weights) {
    infos_ = below.weights();
    for (WeightInfo& info : infos_) {
      const auto found = weights.find(info.name);
      if (found != weights.end()) info.packed = found->second.spec;
    }
  }
  [[nodiscard]] const Json& config() const override { return below_.config(); }
  [[nodiscard]] const Json& generation_config() const override { return below_.generation_config(); }
  [[nodiscard]] std::string where() const override { return below_.where(); }
  [[nodiscard]] std::string where(const std::string& name) const override { return below_.where(name); }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return infos_; }
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return below_.tokenizer_files();
  }
  [[nodiscard]] std::string kind() const override { return below_.kind(); }
  [[nodiscard]] Weight load(const std::string& name, ThreadPool& pool) const override {
    const auto found = weights_.find(name);
    if (found == weights_.end()) return below_.load(name, pool);
    return {found->second, nullptr};
  }

 private:
  const Checkpoint& below_;
  const PackedWeights& weights_;
  std::vector<WeightInfo> infos_;
};

}  // namespace

LayerCalibration::LayerCalibration(const Checkpoint& checkpoint, Plan plan, std::vector<TokenId> ids,
                                   std::int64_t context, ThreadPool& pool)
    : checkpoint_(checkpoint), plan_(std::move(plan)), ids_(std::move(ids)), context_(context), pool_(pool) {
  const auto* const embedding = std::get_if<EmbeddingOp>(&plan_.ops.front());
  if (embedding == nullptr) throw Error(ErrorCode::kUnsupported, "calibration: the model begins with no embedding");
  Plan first = plan_;
  first.ops.resize(1);
  first.logits = embedding->out;
  first.layers = 0;
  run(first, checkpoint, {}, rows_, nullptr);
}

Plan LayerCalibration::slice(bool observed) const {
  Plan out = plan_;
  out.layers = 1;
  const BufferId hidden = std::get<EmbeddingOp>(plan_.ops.front()).out;
  out.logits = hidden;
  out.ops = {InputOp{hidden}};
  int layer = -1;
  BufferId seen = -1;
  for (const Op& op : plan_.ops) {
    layer = layer_of(op, layer);
    if (layer != layer_) continue;
    Op copy = op;
    if (auto* const attention = std::get_if<AttentionOp>(&copy)) attention->layer = 0;
    if (auto* const latent = std::get_if<LatentAttentionOp>(&copy)) latent->layer = 0;
    if (auto* const moe = std::get_if<MoeOp>(&copy)) moe->layer = 0;
    const auto* const linear = std::get_if<LinearOp>(&copy);
    // Linears in a row that read the same buffer are shown it once.
    if (observed && linear != nullptr && linear->in != seen)
      out.ops.emplace_back(ObserveOp{linear->in, linear->weight, width(linear->in)});
    seen = linear != nullptr ? linear->in : -1;
    const auto* const latent = std::get_if<LatentAttentionOp>(&op);
    out.ops.push_back(std::move(copy));
    // Normalised by then.
    if (observed && latent != nullptr) out.ops.emplace_back(ObserveOp{latent->latent, latent->expand, latent->rank});
  }
  return out;
}

void LayerCalibration::run(const Plan& slice, const Checkpoint& checkpoint, const Rows& in, Rows& out,
                           LayerInputs* inputs) {
  const auto model = cpu::prepare(slice, checkpoint, pool_, {Activations::kF32, nullptr, {}});
  const auto pages = static_cast<int>((context_ + kCachePageTokens - 1) / kCachePageTokens);
  const auto runner = model->make_runner({kStep, 1, 1, pages}, CacheType::kF32);
  std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
  std::iota(table.begin(), table.end(), 0);
  const auto columns = static_cast<std::size_t>(width(slice.logits));
  out.resize(ids_.size() * columns);
  // Rows are taken while the layer runs, sums are made when it has.
  std::map<std::string, std::pair<std::vector<float>, std::int64_t>> taken;
  const Observer observer = [&](const std::string& name, const ObservedRows& shown) {
    auto& [values, width_of] = taken[name];
    width_of = shown.width;
    for (std::int64_t r = 0; r < shown.rows; ++r)
      values.insert(values.end(), shown.x + r * shown.stride, shown.x + r * shown.stride + shown.width);
  };
  const auto total = static_cast<std::int64_t>(ids_.size());
  for (std::int64_t done = 0; done < total;) {
    const std::int64_t past = done % context_;
    const std::int64_t count = std::min({std::int64_t{kStep}, total - done, context_ - past});
    const SequenceSlice sequence{0, static_cast<int>(count), past, table};
    Batch batch;
    batch.tokens = std::span(ids_).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
    batch.sequences = {&sequence, 1};
    batch.input = in.empty() ? nullptr : in.data() + static_cast<std::size_t>(done) * columns;
    batch.observer = inputs != nullptr ? &observer : nullptr;
    const float* const hidden = runner->step(batch);
    std::memcpy(out.data() + static_cast<std::size_t>(done) * columns, hidden,
                static_cast<std::size_t>(count) * columns * sizeof(float));
    for (auto& [name, rows] : taken) {
      std::shared_ptr<HessianSum>& sum = (*inputs)[name];
      if (!sum) sum = std::make_shared<HessianSum>(rows.second);
      sum->add(rows.first.data(), static_cast<std::int64_t>(rows.first.size()) / rows.second, pool_);
    }
    taken.clear();
    done += count;
  }
}

LayerInputs LayerCalibration::observe() {
  LayerInputs inputs;
  Rows out;
  run(slice(true), checkpoint_, rows_, out, &inputs);
  // The first of those that read the same was named.
  std::shared_ptr<HessianSum> sum;
  BufferId seen = -1;
  int layer = -1;
  for (const Op& op : plan_.ops) {
    layer = layer_of(op, layer);
    if (layer != layer_) continue;
    const auto* const linear = std::get_if<LinearOp>(&op);
    if (linear != nullptr) {
      if (linear->in != seen) sum = inputs.at(linear->weight);
      inputs[linear->weight] = sum;
    }
    seen = linear != nullptr ? linear->in : -1;
    if (const auto* const moe = std::get_if<MoeOp>(&op)) {
      for (std::int64_t expert = 0; expert < moe->experts; ++expert) {
        const auto gate = inputs.find(expert_weight(*moe, expert, "gate"));
        if (gate != inputs.end()) inputs[expert_weight(*moe, expert, "up")] = gate->second;
      }
    }
  }
  return inputs;
}

void LayerCalibration::advance(const PackedWeights& weights) {
  const Overlay overlay(checkpoint_, weights);
  Rows out;
  run(slice(false), overlay, rows_, out, nullptr);
  rows_ = std::move(out);
  ++layer_;
}

}  // namespace metal_marlin

// A model's activations on a calibration text, a layer at a time: no more than one layer's weights
// and the rows between two layers are held.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/packed_matrix.h"
#include "io/checkpoint.h"
#include "metal_marlin/tokenizer.h"
#include "ops/plan.h"
#include "quantize/hessian.h"

namespace metal_marlin {

class ThreadPool;

// What the linear layers of one layer read, by weight; those that read the same share it.
using LayerInputs = std::map<std::string, std::shared_ptr<HessianSum>>;
// Weights that stand in for those of the checkpoint; their bytes lie elsewhere.
using PackedWeights = std::map<std::string, PackedView>;

class LayerCalibration {
 public:
  // Embeds the text, in contexts of so many tokens. The arguments must outlive this.
  LayerCalibration(const Checkpoint& checkpoint, Plan plan, std::vector<TokenId> ids, std::int64_t context,
                   ThreadPool& pool);

  [[nodiscard]] int layers() const { return plan_.layers; }
  // A row a token, as the next layer reads them.
  [[nodiscard]] std::span<const float> rows() const { return rows_; }
  // Runs the next layer with the checkpoint's weights: what its linears read. Experts that got no
  // token are missing.
  [[nodiscard]] LayerInputs observe();
  // Goes past it, with `weights` in place of the checkpoint's.
  void advance(const PackedWeights& weights);

 private:
  using Rows = std::vector<float>;
  void run(const Plan& slice, const Checkpoint& checkpoint, const Rows& in, Rows& out, LayerInputs* inputs);
  [[nodiscard]] Plan slice(bool observed) const;
  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.buffers[static_cast<std::size_t>(id)].width; }

  const Checkpoint& checkpoint_;
  Plan plan_;
  std::vector<TokenId> ids_;
  std::int64_t context_;
  ThreadPool& pool_;
  int layer_ = 0;
  Rows rows_;  // of `hidden`, between two layers
};

}  // namespace metal_marlin

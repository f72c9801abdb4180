// A model's activations on a calibration text, a layer at a time: no more than one layer's weights
// are held, of a mixture of experts one expert's; the rows between two layers lie in scratch files.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "io/row_file.h"
#include "metal_marlin/tokenizer.h"
#include "ops/plan.h"
#include "quantize/hessian.h"

namespace metal_marlin {

class ThreadPool;

// Weights that stand in for those of the checkpoint.
struct ReplacedWeights {
  std::map<std::string, std::optional<FormatSpec>> specs;  // nothing: dense
  std::function<Weight(const std::string& name)> load;
};

// Shown what weights multiply: those that read the same together. Null: no token of the text
// reached them.
using InputVisitor = std::function<void(const std::vector<std::string>& weights, const HessianSum* inputs)>;

class LayerCalibration {
 public:
  // Embeds the text, in contexts of so many tokens; or goes on before layer `first`, whose
  // rows an earlier instance left in the folder. The backend runs the layers, the pool adds up what they read. The
  // arguments must outlive this.
  LayerCalibration(const Checkpoint& checkpoint, Plan plan, std::vector<TokenId> ids, std::int64_t context,
                   const std::filesystem::path& scratch, const Backend& backend, ThreadPool& pool, int first = 0);
  ~LayerCalibration();

  [[nodiscard]] int layers() const { return plan_.layers; }
  [[nodiscard]] int layer() const { return layer_; }  // the next
  // The file of the rows that a layer reads: of the next one, and of the one before that.
  [[nodiscard]] std::filesystem::path path_of(int layer) const;
  // What a layer and those after it read of what was before them: hidden states, and with layers that share keys and
  // values, or have inputs of their own, those too.
  [[nodiscard]] std::int64_t width_before(int layer) const;
  // As the next layer reads them, a row a token.
  [[nodiscard]] const RowFile& rows() const { return *rows_; }
  // Runs the next layer with the checkpoint's weights, and visits its linear layers. wanted: weights
  // that somebody asks for; who reads the same as none of them is passed over.
  void observe(const std::function<bool(const std::string& weight)>& wanted, const InputVisitor& visit);
  // Goes past it, with some weights replaced. The rows are on the disk then, those before it too.
  void advance(const ReplacedWeights& weights);
  // Rows through any layer, several lots by the same weights.
  struct Passage {
    const RowFile* in;
    RowFile* out;
  };
  void pass(int layer, const ReplacedWeights& weights, std::span<const Passage> passages);
  // The mean KL divergence of what the model says after the last layer's rows, for each lot of them, from
  // what it says after `reference`.
  [[nodiscard]] std::vector<double> divergences(const RowFile& reference, std::span<const RowFile* const> others);
  // Tokens that each expert of the layer that was last passed got; empty: it has none.
  [[nodiscard]] const std::vector<std::int64_t>& expert_counts() const { return expert_counts_; }

 private:
  using Rows = std::vector<float>;
  using Sums = std::map<std::string, HessianSum>;
  struct Observed;
  // Where a run takes its rows from, and where they go; without input they are the text's embeddings.
  struct Stream {
    const RowFile* in = nullptr;
    const std::vector<std::int32_t>* chosen = nullptr;  // rows of it, if not all
    RowFile* out = nullptr;
  };
  // What ObserveOps showed in a step: rows without gaps.
  using Consumer = std::function<void(const std::string& name, const Rows& rows, std::int64_t width)>;
  void run(const Plan& slice, const Checkpoint& checkpoint, std::span<const Stream> streams, const Consumer& consume);
  void run(const Stream& stream, Runner& runner, const Consumer& consume) const;
  [[noreturn]] void fail_not_finite(const std::string& place) const;
  [[nodiscard]] Observed observed_slice(const std::function<bool(const std::string&)>& wanted) const;
  [[nodiscard]] Plan whole_slice(int layer) const;
  [[nodiscard]] Plan empty_slice(int layer) const;
  [[nodiscard]] std::vector<BufferId> read_before(int layer) const;
  void give_rows_before(int layer, Plan& slice) const;
  // The tokens that each expert gets.
  [[nodiscard]] std::vector<std::vector<std::int32_t>> route(const MoeOp& moe, const Rows& logits) const;
  void observe_expert(const MoeOp& moe, std::int64_t expert, const RowFile& in, const std::vector<std::int32_t>& tokens,
                      const InputVisitor& visit);
  [[nodiscard]] std::int64_t tokens() const { return static_cast<std::int64_t>(ids_.size()); }
  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.width(id); }

  const Checkpoint& checkpoint_;
  Plan plan_;
  std::vector<TokenId> ids_;
  std::int64_t context_;
  std::filesystem::path scratch_;
  const Backend& backend_;
  ThreadPool& pool_;
  int layer_ = 0;
  std::unique_ptr<RowFile> rows_;  // between two layers
  std::vector<std::int64_t> expert_counts_;
};

}  // namespace metal_marlin

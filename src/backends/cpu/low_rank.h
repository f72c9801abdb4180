// What adapters add to products, beside the packed weights that all sequences share.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/cpu/panel_matrix.h"
#include "backends/cpu/step_context.h"
#include "ops/adapter.h"

namespace metal_marlin::cpu {

struct LowRankPanels {
  std::int64_t rank;
  float scale;
  PanelMatrix a;
  PanelMatrix b;
};
// Of one weight, by adapter; null: it leaves the weight as it is.
using LowRankSet = std::vector<std::unique_ptr<LowRankPanels>>;

// Of an embedding.
struct LowRankRows {
  std::int64_t rank;
  float scale;
  std::vector<float> a;  // [vocab][rank]
  PanelMatrix b;
};
using LowRankRowsSet = std::vector<std::unique_ptr<LowRankRows>>;

// What all adapters of a model have.
class LowRanks {
 public:
  LowRanks(std::span<const Adapter> adapters, ThreadPool& pool);

  [[nodiscard]] std::int64_t most_rank() const { return most_rank_; }
  [[nodiscard]] std::size_t bytes() const;
  // Of a product's weight, and of an embedding's. Null: no adapter changes it.
  [[nodiscard]] const LowRankSet* of(const std::string& weight) const;
  [[nodiscard]] const LowRankRowsSet* of_embedding(const std::string& weight) const;

 private:
  std::map<std::string, LowRankSet> linears_;  // by weight
  std::map<std::string, LowRankRowsSet> embeddings_;
  std::int64_t most_rank_ = 0;
};

// What a program's steps need at most.
struct LowRankSizes {
  std::int64_t rank = 0;      // 0: there are no adapters
  std::int64_t products = 0;  // of one step
  std::int64_t gate = 0;      // width of a gate that is multiplied apart
};

// A runner's adapters: who has which, and the inner products. A row's numbers do not depend on the rows beside it
// where the kernels' do not (RunnerLimits::one_order).
class LowRankProducts {
 public:
  LowRankProducts(const LowRankSizes& sizes, const RunnerLimits& limits, WorkspaceMemory& memory);

  void plan(const Batch& batch);
  // Whether a sequence of the batch has an adapter.
  [[nodiscard]] bool any() const { return !runs_[0].empty(); }

  // Which rows a product's are: all tokens, or those whose logits are wanted.
  enum class Rows : std::uint8_t { kTokens, kSelected };

  // Phase `phase` of a step: scale a x, for each of its products; a null set has none. x: rows of `stride`.
  void down(const StepContext& context, std::size_t phase, std::span<const LowRankSet* const> products, Rows rows,
            const float* x, std::int64_t stride);
  // After a barrier: adds b times that to one panel of a product's outputs, as `tile` has it.
  void up(const StepContext& context, const LowRankSet* product, std::size_t index, Rows rows, const LinearTile& tile);
  // To the rows [begin, end) of embedded tokens, each row by one thread.
  void embed(const StepContext& context, const LowRankRowsSet& set, std::int64_t begin, std::int64_t end, float* out,
             std::int64_t stride);
  // Where the gate of a gated product is kept until both have what adapters add.
  [[nodiscard]] float* gate() const { return gate_.as<float>(); }

 private:
  // Neighbouring rows of one adapter.
  struct Run {
    std::int64_t first;
    std::int64_t count;
    std::size_t adapter;
  };
  [[nodiscard]] float* inner(std::size_t product, std::int64_t row) const {
    return inner_.as<float>() + (static_cast<std::int64_t>(product) * rows_ + row) * stride_;
  }
  static void add_row(std::vector<Run>& runs, std::int64_t row, int adapter);

  std::int64_t stride_;  // of inner products: whole blocks of a rank
  std::int64_t rows_;
  AlignedBuffer inner_;
  AlignedBuffer gate_;
  std::vector<Run> runs_[2];  // by Rows; as many as there are rows are reserved
};

}  // namespace metal_marlin::cpu

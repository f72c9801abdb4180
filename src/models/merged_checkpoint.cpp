#include "models/merged_checkpoint.h"

#include <fmt/format.h>

#include <set>

#include "base/thread_pool.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

class MergedCheckpoint final : public Checkpoint {
 public:
  MergedCheckpoint(std::unique_ptr<Checkpoint> below, Adapter adapter)
      : below_(std::move(below)), adapter_(std::move(adapter)), infos_(below_->weights()) {
    for (WeightInfo& info : infos_) {
      if (!changes(info.name)) continue;
      info.dtype = DType::kF32;
      info.packed.reset();
    }
  }
  [[nodiscard]] const Json& config() const override { return below_->config(); }
  [[nodiscard]] const Json& generation_config() const override { return below_->generation_config(); }
  [[nodiscard]] std::string where() const override { return below_->where(); }
  [[nodiscard]] std::string where(const std::string& name) const override { return below_->where(name); }
  [[nodiscard]] std::string name_in_file(const std::string& name) const override { return below_->name_in_file(name); }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return infos_; }
  void release() const override { below_->release(); }
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return below_->tokenizer_files();
  }
  [[nodiscard]] std::string kind() const override { return below_->kind(); }

 private:
  [[nodiscard]] bool changes(const std::string& name) const {
    return adapter_.linears.contains(name) || adapter_.embeddings.contains(name);
  }

  [[nodiscard]] Weight read(const std::string& name, ThreadPool& pool) const override {
    Weight own = below_->load(name, pool);
    if (!changes(name)) return own;
    const Shape& shape = find(name)->shape;
    const std::int64_t cols = shape[1];
    auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(shape[0] * cols));
    const auto embedding = adapter_.embeddings.find(name);
    const bool embeds = embedding != adapter_.embeddings.end();
    const LowRank& pair = embeds ? embedding->second : adapter_.linears.at(name);
    pool.parallel_for(shape[0], 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> sum(static_cast<std::size_t>(cols));
      for (std::int64_t row = begin; row < end; ++row) {
        float* const out = values->data() + row * cols;
        own.decode_row(row, cols, out);
        embeds ? add_looked_up(pair, row, cols, sum) : add_product(pair, row, cols, sum);
        for (std::int64_t i = 0; i < cols; ++i)
          out[i] = static_cast<float>(out[i] + static_cast<double>(pair.scale) * sum[static_cast<std::size_t>(i)]);
      }
    });
    return {DenseView{DType::kF32, shape, std::as_bytes(std::span(*values))}, values};
  }

  // sum = row `row` of b a
  static void add_product(const LowRank& pair, std::int64_t row, std::int64_t cols, std::vector<double>& sum) {
    sum.assign(sum.size(), 0);
    for (std::int64_t r = 0; r < pair.rank; ++r) {
      const double b = pair.b[static_cast<std::size_t>(row * pair.rank + r)];
      const float* const a = pair.a.data() + r * cols;
      for (std::int64_t i = 0; i < cols; ++i) sum[static_cast<std::size_t>(i)] += b * a[i];
    }
  }
  // sum = what a token's row of an embedding is changed by
  static void add_looked_up(const LowRank& pair, std::int64_t token, std::int64_t cols, std::vector<double>& sum) {
    sum.assign(sum.size(), 0);
    const float* const a = pair.a.data() + token * pair.rank;
    for (std::int64_t i = 0; i < cols; ++i) {
      for (std::int64_t r = 0; r < pair.rank; ++r)
        sum[static_cast<std::size_t>(i)] +=
            static_cast<double>(a[r]) * pair.b[static_cast<std::size_t>(i * pair.rank + r)];
    }
  }

  std::unique_ptr<Checkpoint> below_;
  Adapter adapter_;
  std::vector<WeightInfo> infos_;
};

}  // namespace

std::unique_ptr<Checkpoint> merge_adapter(std::unique_ptr<Checkpoint> below, Adapter adapter, const Plan& plan) {
  std::set<std::string> embeddings;
  for (const Op& op : plan.ops) {
    if (const auto* const embedding = op.as<EmbeddingOp>()) embeddings.insert(embedding->weight);
  }
  for (const Op& op : plan.ops) {
    const auto* const linear = op.as<LinearOp>();
    if (linear == nullptr || !embeddings.contains(linear->weight)) continue;
    if (adapter.embeddings.contains(linear->weight) || adapter.linears.contains(linear->weight)) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: {} is both the embedding and the head; adapter {} is for one of them, and merged it "
                              "would change both",
                              below->where(), linear->weight, adapter.name));
    }
  }
  return std::make_unique<MergedCheckpoint>(std::move(below), std::move(adapter));
}

}  // namespace metal_marlin

#include "backends/cpu/low_rank.h"

#include <algorithm>

namespace metal_marlin::cpu {
namespace {

PanelMatrix panels_of(const std::vector<float>& values, std::int64_t rows, std::int64_t cols, ThreadPool& pool) {
  const DenseView view{DType::kF32, {rows, cols}, std::as_bytes(std::span(values))};
  return {Weight{view, nullptr}, rows, cols, pool};
}

std::int64_t rows_of(const std::vector<float>& values, std::int64_t rank) {
  return static_cast<std::int64_t>(values.size()) / rank;
}

std::unique_ptr<LowRankPanels> make_low_rank(const LowRank& from, ThreadPool& pool) {
  return std::make_unique<LowRankPanels>(LowRankPanels{from.rank, from.scale,
                                                       panels_of(from.a, from.rank, rows_of(from.a, from.rank), pool),
                                                       panels_of(from.b, rows_of(from.b, from.rank), from.rank, pool)});
}

std::unique_ptr<LowRankRows> make_low_rank_rows(const LowRank& from, ThreadPool& pool) {
  return std::make_unique<LowRankRows>(
      LowRankRows{from.rank, from.scale, from.a, panels_of(from.b, rows_of(from.b, from.rank), from.rank, pool)});
}

}  // namespace

LowRanks::LowRanks(std::span<const Adapter> adapters, ThreadPool& pool) {
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    for (const auto& [weight, pair] : adapters[i].linears) {
      LowRankSet& set = linears_[weight];
      set.resize(adapters.size());
      set[i] = make_low_rank(pair, pool);
      most_rank_ = std::max(most_rank_, pair.rank);
    }
    for (const auto& [weight, pair] : adapters[i].embeddings) {
      LowRankRowsSet& set = embeddings_[weight];
      set.resize(adapters.size());
      set[i] = make_low_rank_rows(pair, pool);
      most_rank_ = std::max(most_rank_, pair.rank);
    }
  }
}

std::size_t LowRanks::bytes() const {
  std::size_t bytes = 0;
  for (const auto& [weight, set] : linears_) {
    for (const auto& pair : set) bytes += pair ? pair->a.bytes() + pair->b.bytes() : 0;
  }
  for (const auto& [weight, set] : embeddings_) {
    for (const auto& pair : set) bytes += pair ? pair->a.size() * sizeof(float) + pair->b.bytes() : 0;
  }
  return bytes;
}

const LowRankSet* LowRanks::of(const std::string& weight) const {
  const auto found = linears_.find(weight);
  return found == linears_.end() ? nullptr : &found->second;
}

const LowRankRowsSet* LowRanks::of_embedding(const std::string& weight) const {
  const auto found = embeddings_.find(weight);
  return found == embeddings_.end() ? nullptr : &found->second;
}

LowRankProducts::LowRankProducts(const LowRankSizes& sizes, const RunnerLimits& limits, WorkspaceMemory& memory)
    : stride_(round_up(sizes.rank, kBlock)), rows_(std::max(limits.tokens, limits.selected)) {
  if (sizes.rank == 0) return;
  inner_ = memory.take(static_cast<std::size_t>(sizes.products * rows_ * stride_) * sizeof(float));
  gate_ = memory.take(static_cast<std::size_t>(rows_ * sizes.gate) * sizeof(float));
  for (std::vector<Run>& runs : runs_) {
    runs = memory.take_vector<Run>(static_cast<std::size_t>(rows_));
    runs.clear();
  }
}

void LowRankProducts::add_row(std::vector<Run>& runs, std::int64_t row, int adapter) {
  if (adapter == kNoAdapter) return;
  const auto index = static_cast<std::size_t>(adapter);
  if (!runs.empty() && runs.back().adapter == index && runs.back().first + runs.back().count == row) {
    ++runs.back().count;
  } else {
    runs.push_back({row, 1, index});
  }
}

void LowRankProducts::plan(const Batch& batch) {
  for (std::vector<Run>& runs : runs_) runs.clear();
  if (stride_ == 0) return;
  std::size_t selected = 0;
  for (const SequenceSlice& sequence : batch.sequences) {
    for (int i = 0; i < sequence.count; ++i) add_row(runs_[0], sequence.first + i, sequence.adapter);
    for (; selected < batch.selected.size() && batch.selected[selected] < sequence.first + sequence.count; ++selected)
      add_row(runs_[1], static_cast<std::int64_t>(selected), sequence.adapter);
  }
}

void LowRankProducts::down(const StepContext& context, std::size_t phase, std::span<const LowRankSet* const> products,
                           Rows rows, const float* x, std::int64_t stride) {
  const std::vector<Run>& runs = runs_[static_cast<std::size_t>(rows)];
  const std::int64_t panels = stride_ / kPanelRows;
  const auto tasks = static_cast<std::int64_t>(products.size() * runs.size()) * panels;
  context.share(phase, tasks, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t panel = task % panels;
    const Run& run = runs[static_cast<std::size_t>(task / panels) % runs.size()];
    const std::size_t product = static_cast<std::size_t>(task / panels) / runs.size();
    if (products[product] == nullptr) return;
    const LowRankPanels* const pair = (*products[product])[run.adapter].get();
    if (pair == nullptr || panel >= round_up(pair->rank, kBlock) / kPanelRows) return;
    float* const out = inner(product, run.first);
    const std::int64_t first = panel * kPanelRows;
    const std::int64_t last = std::min(pair->rank, first + kPanelRows);
    if (panel < pair->a.panels()) {
      LinearTile tile{};
      tile.matrix = &pair->a.view();
      tile.panel = panel;
      tile.tokens = run.count;
      tile.x = x + run.first * stride;
      tile.x_stride = stride;
      tile.out = out;
      tile.out_stride = stride_;
      tile.one_order = context.one_order;
      tile.scratch = context.linear_scratch;
      context.kernels.linear_f32(tile);
    }
    for (std::int64_t row = 0; row < run.count; ++row) {
      float* const values = out + row * stride_;
      for (std::int64_t i = first; i < last; ++i) values[i] *= pair->scale;
      std::fill(values + std::max(first, last), values + first + kPanelRows, 0.0F);  // `b` has whole blocks of inputs
    }
  });
}

void LowRankProducts::up(const StepContext& context, const LowRankSet* product, std::size_t index, Rows rows,
                         const LinearTile& tile) {
  if (product == nullptr) return;
  for (const Run& run : runs_[static_cast<std::size_t>(rows)]) {
    const LowRankPanels* const pair = (*product)[run.adapter].get();
    if (pair == nullptr) continue;
    LinearTile more{};
    more.matrix = &pair->b.view();
    more.panel = tile.panel;
    more.tokens = run.count;
    more.x = inner(index, run.first);
    more.x_stride = stride_;
    more.out = tile.out + run.first * tile.out_stride;
    more.out_stride = tile.out_stride;
    more.accumulate = true;
    more.one_order = context.one_order;
    more.scratch = context.linear_scratch;
    context.kernels.linear_f32(more);
  }
}

void LowRankProducts::embed(const StepContext& context, const LowRankRowsSet& set, std::int64_t begin, std::int64_t end,
                            float* out, std::int64_t stride) {
  for (std::int64_t row = begin; row < end; ++row) {
    const int adapter = context.places[static_cast<std::size_t>(row)].sequence->adapter;
    if (adapter == kNoAdapter || set[static_cast<std::size_t>(adapter)] == nullptr) continue;
    const LowRankRows& pair = *set[static_cast<std::size_t>(adapter)];
    const float* const a = pair.a.data() + context.batch.tokens[static_cast<std::size_t>(row)] * pair.rank;
    float* const values = inner(0, row);
    for (std::int64_t i = 0; i < pair.rank; ++i) values[i] = pair.scale * a[i];
    std::fill(values + pair.rank, values + stride_, 0.0F);
    LinearTile tile{};
    tile.matrix = &pair.b.view();
    tile.tokens = 1;
    tile.x = values;
    tile.x_stride = stride_;
    tile.out = out + row * stride;
    tile.out_stride = stride;
    tile.accumulate = true;
    tile.one_order = context.one_order;
    tile.scratch = context.linear_scratch;
    for (tile.panel = 0; tile.panel < pair.b.panels(); ++tile.panel) context.kernels.linear_f32(tile);
  }
}

}  // namespace metal_marlin::cpu

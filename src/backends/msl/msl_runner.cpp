#include "backends/msl/msl_runner.h"

#include <algorithm>
#include <numeric>

#include "backends/msl/sampling.h"
#include "backends/msl/step_encoder.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

using PlanBuffer = metal_marlin::Buffer;
using DeviceBuffer = msl::Buffer;

class MslRunner final : public Runner {
 public:
  MslRunner(const MslModel& model, Device& device, const RunnerLimits& limits, CacheType cache)
      : model_(model),
        plan_(limits.hidden ? hidden_plan(model.plan()) : model.plan()),
        device_(device),
        queue_(device_.make_queue()),
        limits_(limits),
        spare_pages_(static_cast<int>(pages_for(most_padding(limits.tokens)))) {
    std::int64_t cols = 1;
    std::int64_t rows = 1;
    for (const Op& op : plan_.ops) {
      const auto* const linear = op.as<LinearOp>();
      if (linear == nullptr) continue;
      cols = std::max(cols, width(linear->in));
      rows = std::max(rows, width(linear->out));
    }
    buffers_.cache = cache;
    buffers_.table_rows = limits.sequences + 1;
    buffers_.linear.emplace(device_, std::max(limits.tokens, limits.selected), cols, rows);
    const std::vector<bool> used = used_buffers();
    for (std::size_t i = 0; i < used.size(); ++i) {
      const PlanBuffer& buffer = plan_.buffers[i];
      const std::int64_t count = buffer.selected ? limits.selected : limits.tokens;
      buffers_.plan.push_back(
          device_.allocate(used[i] ? static_cast<std::size_t>(count * buffer.width) * sizeof(float) : sizeof(float)));
    }
    make_workspaces();
    const auto tokens = static_cast<std::size_t>(limits.tokens);
    buffers_.tokens = device_.allocate(tokens * sizeof(std::int32_t));
    buffers_.positions = device_.allocate(tokens * sizeof(std::int32_t));
    buffers_.sequences = device_.allocate(tokens * sizeof(std::int32_t));
    buffers_.selected = device_.allocate(static_cast<std::size_t>(limits.selected) * sizeof(std::int32_t));
    if (model_.most_rank() > 0) {
      const auto rows_at_most = static_cast<std::size_t>(std::max(limits.tokens, limits.selected));
      buffers_.token_adapters = device_.allocate(tokens * sizeof(std::int32_t));
      buffers_.selected_adapters = device_.allocate(static_cast<std::size_t>(limits.selected) * sizeof(std::int32_t));
      buffers_.low_rank_inner =
          device_.allocate(rows_at_most * static_cast<std::size_t>(model_.most_rank()) * sizeof(float));
      host_adapters_.resize(tokens);
    }
    const auto starts = static_cast<std::size_t>(limits.sequences) + 2;
    buffers_.q_starts = device_.allocate(starts * sizeof(std::int32_t));
    buffers_.k_starts = device_.allocate(starts * sizeof(std::int32_t));
    host_q_starts_.resize(starts);
    host_k_starts_.resize(starts);
    for (const RopeTable& rope : plan_.ropes) buffers_.frequencies.push_back(device_.allocate_with(rope.frequencies));
    host_tokens_.resize(tokens);
    host_positions_.resize(tokens);
    host_sequences_.resize(tokens);
    host_selected_.resize(static_cast<std::size_t>(limits.selected));
    host_output_.resize(buffer(plan_.result()).size() / sizeof(float));
    draw_.emplace(device_, limits.selected, width(plan_.result()));
    grow_cache(limits.pages);
    make_observed();
    make_slices();
  }

  void submit(const Batch& batch) override {
    const auto bucket = [](std::size_t n, int most) { return bucket_of(static_cast<std::int64_t>(n), most); };
    StepShape shape{bucket(batch.tokens.size(), limits_.tokens), bucket(batch.selected.size(), limits_.selected),
                    !batch.samplers.empty()};
    shape.adapted = std::any_of(batch.sequences.begin(), batch.sequences.end(),
                                [](const SequenceSlice& sequence) { return sequence.adapter != kNoAdapter; });
    if (const auto* const op = tiled_attention())
      shape.tiled = tiles_cost_less(device_, paged_params(model_, device_, buffers_, *op, shape.tokens), buffers_.cache,
                                    batch.sequences);
    upload(batch, shape);
    if (draw_->grow(batch.samplers)) encoded_.clear();
    if (shape.sampled) draw_->upload(*queue_, batch.samplers, shape.selected);
    running_ = &encoded_.get(shape, [&] { return encode(shape); });
    running_->commit();
    batch_ = &batch;
  }

  const float* wait() override {
    end_step();
    const auto values = static_cast<std::size_t>(rows_of_batch(plan_.result()) * width(plan_.result()));
    download(buffer(plan_.result()), std::span(host_output_).first(values));
    return host_output_.data();
  }
  void wait_tokens(std::span<TokenId> next) override {
    end_step();
    draw_->download(*queue_, batch_->samplers, next);
  }
  const float* logits_of(std::size_t row) override {
    const auto vocab = static_cast<std::size_t>(width(plan_.result()));
    const std::span<float> values = std::span(host_output_).subspan(row * vocab, vocab);
    queue_->download(buffer(plan_.result()), std::as_writable_bytes(values), row * values.size_bytes());
    return values.data();
  }

  const float* hidden() override {
    const BufferId id = plan_.output(kHiddenOutput);
    host_hidden_.resize(static_cast<std::size_t>(rows_of_batch(id) * width(id)));
    download(buffer(id), std::span(host_hidden_));
    return host_hidden_.data();
  }

  void grow_cache(int pages) override {
    encoded_.clear();  // they name the buffers that go
    const auto grow = [&](std::unique_ptr<DeviceBuffer>& layer, std::size_t page) {
      if (page == 0) return;
      auto larger = device_.allocate(page * static_cast<std::size_t>(pages + spare_pages_));
      if (layer) queue_->copy(*layer, 0, *larger, 0, page * static_cast<std::size_t>(pages_));
      layer = std::move(larger);
    };
    // Each a buffer: devices limit how large one is.
    buffers_.keys.resize(plan_.caches.size());
    buffers_.values.resize(plan_.caches.size());
    for (std::size_t i = 0; i < plan_.caches.size(); ++i) {
      const CacheShape& shape = plan_.caches[i];
      grow(buffers_.keys[i], page_bytes(shape, buffers_.cache, shape.key_dim));
      if (!shape.latent) grow(buffers_.values[i], page_bytes(shape, buffers_.cache, shape.value_dim));
    }
    pages_ = pages;
    buffers_.table_stride = std::max(pages, spare_pages_);
    buffers_.tables = device_.allocate(static_cast<std::size_t>(buffers_.table_rows) *
                                       static_cast<std::size_t>(buffers_.table_stride) * sizeof(std::int32_t));
    std::vector<std::int32_t> spare(static_cast<std::size_t>(spare_pages_));
    std::iota(spare.begin(), spare.end(), pages);
    upload_table(limits_.sequences, spare);
  }

  void copy_page(std::int32_t from, std::int32_t to) override {
    for_each_cache([&](DeviceBuffer& layer, std::size_t page) {
      queue_->copy(layer, page * static_cast<std::size_t>(from), layer, page * static_cast<std::size_t>(to), page);
    });
  }

  void read_pages(std::span<const std::int32_t> pages, std::span<std::byte> bytes) override {
    std::vector<DownloadPiece> pieces;
    std::size_t at = 0;
    for_each_cache([&](DeviceBuffer& layer, std::size_t page) {
      for_each_run(pages, [&](std::size_t first, std::size_t count) {
        pieces.push_back({&layer, page * static_cast<std::size_t>(pages[first]), bytes.subspan(at, page * count)});
        at += page * count;
      });
    });
    queue_->download(pieces);
  }

  void write_pages(std::span<const std::int32_t> pages, std::size_t skip, std::span<const std::byte> bytes) override {
    std::vector<UploadPiece> pieces;
    std::size_t at = 0;
    for_each_cache([&](DeviceBuffer& layer, std::size_t page) {
      at += page * skip;
      for_each_run(pages, [&](std::size_t first, std::size_t count) {
        pieces.push_back({&layer, page * static_cast<std::size_t>(pages[first]), bytes.subspan(at, page * count)});
        at += page * count;
      });
    });
    queue_->upload(pieces);
  }

  [[nodiscard]] std::vector<std::vector<std::int64_t>> expert_counts() const override { return expert_counts_; }

 private:
  // Of each layer, the buffer of its keys and then of its values, and bytes of a page in it.
  template <typename Visit>
  void for_each_cache(const Visit& visit) const {
    const auto of = [&](const std::vector<std::unique_ptr<DeviceBuffer>>& layers, std::int64_t CacheShape::*dim) {
      for (std::size_t i = 0; i < layers.size(); ++i) {
        if (layers[i]) visit(*layers[i], page_bytes(plan_.caches[i], buffers_.cache, plan_.caches[i].*dim));
      }
    };
    of(buffers_.keys, &CacheShape::key_dim);
    of(buffers_.values, &CacheShape::value_dim);
  }
  // Neighbours among pages that lie side by side: one copy takes them.
  template <typename Visit>
  static void for_each_run(std::span<const std::int32_t> pages, const Visit& visit) {
    for (std::size_t first = 0; first < pages.size();) {
      std::size_t end = first + 1;
      while (end < pages.size() && pages[end] == pages[end - 1] + 1) ++end;
      visit(first, end - first);
      first = end;
    }
  }

  void end_step() {
    running_->wait();
    if (limits_.count_experts) count_experts();
    if (batch_->observer != nullptr) show_observed();
  }

  // The first that may go by tiles, which tells of all that may; null: there is none.
  [[nodiscard]] const AttentionOp* tiled_attention() const {
    for (const Op& op : plan_.ops) {
      const auto* const attention = op.as<AttentionOp>();
      if (attention != nullptr &&
          has_tiles(device_, paged_params(model_, device_, buffers_, *attention, 1), buffers_.cache))
        return attention;
    }
    return nullptr;
  }

  // A plan that ends early has no use for some: of logits, say.
  [[nodiscard]] std::vector<bool> used_buffers() const {
    std::vector<bool> used(plan_.buffers.size());
    for (const Op& op : plan_.ops) {
      for (const auto& ids : {read_buffers(op), written_buffers(op)}) {
        for (const BufferId id : ids) used[static_cast<std::size_t>(id)] = true;
      }
    }
    return used;
  }

  void make_workspaces() {
    std::size_t partial = 1;
    const auto measure = [&](PagedParams p) {
      for (std::int64_t tokens = 1; tokens <= limits_.tokens; tokens *= 2) {
        p.splits = paged_splits(device_, p, DType::kF32, buffers_.cache, tokens, kMostSplits);
        if (p.splits == 1) break;
        // Of up to twice as many tokens, which have no more splits.
        partial = std::max(partial, paged_partial_bytes(p, std::min<std::int64_t>(2 * tokens, limits_.tokens)));
      }
    };
    // All of latent attention have one shape, and all experts.
    if (const auto* const latent = plan_.find<LatentAttentionOp>()) {
      buffers_.latent.emplace(device_, *latent, limits_.tokens);
      measure(latent_paged_params(*latent));
    }
    for (const Op& op : plan_.ops) {
      if (const auto* const attention = op.as<AttentionOp>())
        measure(paged_params(model_, device_, buffers_, *attention, 1));
    }
    buffers_.partial = device_.allocate(partial);
    if (const auto* const moe = plan_.find<MoeOp>()) {
      buffers_.experts.emplace(device_, limits_.tokens, moe->top_k, moe->experts, width(moe->in), moe->intermediate);
      const auto assignments = static_cast<std::size_t>(limits_.tokens * moe->top_k);
      buffers_.expert_weights = device_.allocate(assignments * sizeof(float));
      for (const Op& op : plan_.ops) {
        if (const auto* const each = op.as<MoeOp>())
          buffers_.expert_ids[op.layer] = {each, device_.allocate(assignments * sizeof(std::int32_t))};
      }
    }
  }

  // Steps of so many shapes stay encoded.
  static constexpr std::size_t kKeptShapes = 64;

  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.width(id); }
  [[nodiscard]] DeviceBuffer& buffer(BufferId id) const { return *buffers_.plan[static_cast<std::size_t>(id)]; }
  [[nodiscard]] bool is_selected(BufferId id) const { return plan_.buffers[static_cast<std::size_t>(id)].selected; }
  [[nodiscard]] std::int64_t rows_of_batch(BufferId id) const {
    return static_cast<std::int64_t>(is_selected(id) ? batch_->selected.size() : batch_->tokens.size());
  }

  template <typename T>
  void upload(DeviceBuffer& to, const std::vector<T>& values, std::int64_t count) {
    queue_->upload(to, std::as_bytes(std::span(values).first(static_cast<std::size_t>(count))));
  }
  template <typename T>
  void download(const DeviceBuffer& from, std::span<T> values) {
    queue_->download(from, std::as_writable_bytes(values));
  }
  void upload_table(int sequence, std::span<const std::int32_t> pages) {
    queue_->upload(
        *buffers_.tables, std::as_bytes(pages),
        static_cast<std::size_t>(sequence) * static_cast<std::size_t>(buffers_.table_stride) * sizeof(std::int32_t));
  }

  // What a batch is, all of it in buffers, so that its encoding depends on its shape alone. Tokens that fill the shape
  // are a sequence of their own, whose pages are the spare ones.
  void upload(const Batch& batch, const StepShape& shape) {
    upload_frequencies(batch);
    const std::size_t count = batch.tokens.size();
    std::copy(batch.tokens.begin(), batch.tokens.end(), host_tokens_.begin());
    for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
      const SequenceSlice& sequence = batch.sequences[s];
      for (int i = 0; i < sequence.count; ++i) {
        const auto at = static_cast<std::size_t>(sequence.first) + static_cast<std::size_t>(i);
        host_positions_[at] = static_cast<std::int32_t>(sequence.past + i);
        host_sequences_[at] = static_cast<std::int32_t>(s);
      }
      upload_table(static_cast<int>(s), sequence.pages);
    }
    for (auto at = count; at < static_cast<std::size_t>(shape.tokens); ++at) {
      host_tokens_[at] = 0;
      host_positions_[at] = static_cast<std::int32_t>(at - count);
      host_sequences_[at] = limits_.sequences;
    }
    std::copy(batch.selected.begin(), batch.selected.end(), host_selected_.begin());
    std::fill(host_selected_.begin() + static_cast<std::ptrdiff_t>(batch.selected.size()), host_selected_.end(), 0);
    upload(*buffers_.tokens, host_tokens_, shape.tokens);
    upload(*buffers_.positions, host_positions_, shape.tokens);
    upload(*buffers_.sequences, host_sequences_, shape.tokens);
    upload(*buffers_.selected, host_selected_, shape.selected);
    if (shape.adapted) upload_adapters(batch, shape);
    if (shape.tiled) upload_starts(batch, shape);
    if (const auto* const input = plan_.find<InputOp>()) upload_input(*input, batch, shape);
  }

  // Rows that fill the shape have none.
  void upload_adapters(const Batch& batch, const StepShape& shape) {
    std::fill(host_adapters_.begin(), host_adapters_.end(), kNoAdapter);
    for (const SequenceSlice& sequence : batch.sequences)
      std::fill_n(host_adapters_.begin() + sequence.first, sequence.count, sequence.adapter);
    upload(*buffers_.token_adapters, host_adapters_, shape.tokens);
    std::vector<std::int32_t>& of_selected = host_selected_;  // uploaded already
    for (std::size_t i = 0; i < batch.selected.size(); ++i)
      of_selected[i] = host_adapters_[static_cast<std::size_t>(batch.selected[i])];
    std::fill(of_selected.begin() + static_cast<std::ptrdiff_t>(batch.selected.size()), of_selected.end(), kNoAdapter);
    upload(*buffers_.selected_adapters, of_selected, shape.selected);
  }

  // Of all rows of the page tables: those of the batch, some without tokens, and the one of tokens that fill the shape.
  void upload_starts(const Batch& batch, const StepShape& shape) {
    for (std::size_t s = 0; s + 1 < host_q_starts_.size(); ++s) {
      SequenceSlice row;
      if (s < batch.sequences.size()) row = batch.sequences[s];
      if (s + 2 == host_q_starts_.size()) row.count = static_cast<int>(shape.tokens) - host_q_starts_[s];
      host_q_starts_[s + 1] = host_q_starts_[s] + row.count;
      host_k_starts_[s + 1] = host_k_starts_[s] + static_cast<std::int32_t>(row.past) + row.count;
    }
    upload(*buffers_.q_starts, host_q_starts_, static_cast<std::int64_t>(host_q_starts_.size()));
    upload(*buffers_.k_starts, host_k_starts_, static_cast<std::int64_t>(host_k_starts_.size()));
  }

  void upload_input(const InputOp& op, const Batch& batch, const StepShape& shape) {
    const auto row = static_cast<std::size_t>(width(op.out));
    host_input_.assign(static_cast<std::size_t>(shape.tokens) * row, 0.0F);
    std::copy_n(batch.input, batch.tokens.size() * row, host_input_.begin());
    upload(buffer(op.out), host_input_, shape.tokens * width(op.out));
  }

  void make_slices() {
    for (const Op& op : plan_.ops) {
      const auto* const slice = op.as<SliceOp>();
      if (slice == nullptr) continue;
      const std::int64_t piece = std::gcd(std::gcd(width(slice->in), width(slice->out)), slice->first);
      const bool selected = plan_.buffers[static_cast<std::size_t>(slice->in)].selected;
      std::vector<std::int32_t> pieces;
      for (std::int64_t row = 0; row < (selected ? limits_.selected : limits_.tokens); ++row) {
        for (std::int64_t i = 0; i < width(slice->out) / piece; ++i)
          pieces.push_back(static_cast<std::int32_t>((row * width(slice->in) + slice->first) / piece + i));
      }
      buffers_.sliced.push_back({slice, piece, device_.allocate_with(pieces)});
    }
  }

  // What is observed is copied while the step runs, and shown when it has.
  void make_observed() {
    for (const Op& op : plan_.ops) {
      const auto* const observe = op.as<ObserveOp>();
      if (observe == nullptr) continue;
      buffers_.observed.push_back({observe, device_.allocate(buffer(observe->in).size())});
    }
    if (buffers_.observed.empty()) return;
    std::vector<std::int32_t> all(static_cast<std::size_t>(limits_.tokens));
    std::iota(all.begin(), all.end(), 0);
    buffers_.all_rows = device_.allocate_with(all);
  }
  void show_observed() {
    std::vector<float> rows;
    for (const StepBuffers::Observed& observed : buffers_.observed) {
      const std::int64_t stride = width(observed.op->in);
      const std::int64_t count = rows_of_batch(observed.op->in);
      rows.resize(static_cast<std::size_t>(count * stride));
      download(*observed.rows, std::span(rows));
      (*batch_->observer)(observed.op->name, {rows.data(), count, observed.op->width, stride});
    }
  }

  // By the choices that each layer's router left.
  void count_experts() {
    std::vector<std::int32_t> ids;
    for (const auto& [layer, chosen] : buffers_.expert_ids) {
      const MoeOp& op = *chosen.op;
      expert_counts_.resize(static_cast<std::size_t>(plan_.layers));
      std::vector<std::int64_t>& counts = expert_counts_[static_cast<std::size_t>(layer)];
      counts.resize(static_cast<std::size_t>(op.experts));
      ids.resize(batch_->tokens.size() * static_cast<std::size_t>(op.top_k));
      download(*chosen.ids, std::span(ids));
      for (const std::int32_t id : ids) ++counts[static_cast<std::size_t>(id)];
    }
  }

  // Of tables whose angles depend on sequences' lengths.
  void upload_frequencies(const Batch& batch) {
    for (std::size_t table = 0; table < plan_.ropes.size(); ++table) {
      const RopeTable& rope = plan_.ropes[table];
      if (!rope.frequencies_of) continue;
      std::vector<float> common(rope.frequencies.size());
      std::vector<float> frequencies(common.size());
      for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
        sequence_frequencies(rope, batch.sequences[s], frequencies);
        if (s > 0 && frequencies != common) {
          throw Error(
              ErrorCode::kUnsupported,
              "the msl backend rotates all sequences of a step alike, and these are of lengths that differ in it");
        }
        common = frequencies;
      }
      queue_->upload(*buffers_.frequencies[table], std::as_bytes(std::span(common)));
    }
  }

  std::unique_ptr<Commands> encode(const StepShape& shape) {
    std::unique_ptr<Commands> commands = queue_->commands();
    encode_step(model_, plan_, device_, buffers_, *commands, shape);
    if (shape.sampled) draw_->encode(*commands, shape.selected, buffer(plan_.result()));
    return commands;
  }

  const MslModel& model_;
  const Plan plan_;  // the model's, or what of it gives hidden states
  Device& device_;
  std::unique_ptr<Queue> queue_;
  RunnerLimits limits_;
  int spare_pages_;  // after the cache's own: of tokens that fill a shape
  StepBuffers buffers_;
  std::optional<TokenDraw> draw_;
  int pages_ = 0;
  std::vector<std::vector<std::int64_t>> expert_counts_;
  std::vector<std::int32_t> host_tokens_;
  std::vector<std::int32_t> host_positions_;
  std::vector<std::int32_t> host_sequences_;
  std::vector<std::int32_t> host_selected_;
  std::vector<std::int32_t> host_adapters_;  // of tokens; none where the model has no adapters
  std::vector<std::int32_t> host_q_starts_;
  std::vector<std::int32_t> host_k_starts_;
  std::vector<float> host_input_;
  std::vector<float> host_output_;
  std::vector<float> host_hidden_;
  EncodedSteps encoded_{kKeptShapes};
  Commands* running_ = nullptr;
  const Batch* batch_ = nullptr;
};

}  // namespace

std::size_t page_bytes(const CacheShape& shape, CacheType type, std::int64_t dim) {
  return static_cast<std::size_t>(shape.heads) * kCachePageTokens * cache_row_bytes(type, dim);
}

std::size_t cache_page_bytes(const std::vector<CacheShape>& caches, CacheType type) {
  std::size_t bytes = 0;
  for (const CacheShape& shape : caches)
    bytes += page_bytes(shape, type, shape.key_dim) + (shape.latent ? 0 : page_bytes(shape, type, shape.value_dim));
  return bytes;
}

std::unique_ptr<Runner> make_runner(const MslModel& model, Device& device, const RunnerLimits& limits,
                                    CacheType cache) {
  return std::make_unique<MslRunner>(model, device, limits, cache);
}

}  // namespace metal_marlin::msl

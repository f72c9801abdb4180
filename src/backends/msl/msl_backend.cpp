#include "backends/msl/msl_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "backends/msl/epilogue.h"
#include "backends/msl/experts.h"
#include "backends/msl/hadamard.h"
#include "backends/msl/latent_attention.h"
#include "backends/msl/measuring_device.h"
#include "backends/msl/moe_router.h"
#include "backends/msl/paged_attention.h"
#include "backends/msl/rope.h"
#include "backends/msl/sampling.h"
#include "backends/msl/shared_expert.h"
#include "backends/msl/step_shapes.h"
#include "metal_marlin/error.h"
#include "ops/fuse.h"

namespace metal_marlin::msl {
namespace {

using PlanBuffer = metal_marlin::Buffer;
using DeviceBuffer = msl::Buffer;

// Most splits of a query's keys, and keys of a split at least.
constexpr std::uint32_t kMostSplits = 32;
constexpr std::uint32_t kSplitKeys = 128;

// From here gate and up are multiplied in one pass over the activations; below, decode_gemv
// reads weights faster.
constexpr std::int64_t kFusedTokens = 33;

const FuseCapabilities kFusion{.rotations = true};

// Of a page's keys, or values, in one layer.
std::size_t page_bytes(const CacheShape& shape, CacheType type, std::int64_t dim) {
  return static_cast<std::size_t>(shape.heads) * kCachePageTokens * cache_row_bytes(type, dim);
}

// Of one page in all layers.
std::size_t cache_page_bytes(const CacheShape& shape, int layers, CacheType type) {
  const std::size_t values = shape.latent ? 0 : page_bytes(shape, type, shape.value_dim);
  return static_cast<std::size_t>(layers) * (page_bytes(shape, type, shape.key_dim) + values);
}

class MslModel final : public PreparedModel {
 public:
  MslModel(Plan plan, std::shared_ptr<Device> device, Activations activations)
      : plan_(std::move(plan)), device_(std::move(device)), activations_(activations) {}

  void load(const Checkpoint& checkpoint, ThreadPool& pool, const LoadProgress& progress) {
    std::map<std::string, std::function<void()>> parts;  // by the last of the weights that they are made of
    for (const Op& op : plan_.ops) {
      if (const auto* const latent = op.as<LatentAttentionOp>()) {
        parts[latent->expand] = [&, latent, layer = op.layer] {
          latents_[layer] = std::make_unique<LatentAttention>(*device_, *latent, checkpoint.load(latent->expand, pool),
                                                              activations_, pool);
        };
      } else if (const auto* const moe = op.as<MoeOp>()) {
        for (std::int64_t i = 0; i < moe->experts; ++i) {
          for (const char* const projection : {"gate", "up", "down"}) parts[expert_weight(*moe, i, projection)] = {};
        }
        parts[expert_weight(*moe, moe->experts - 1, "down")] = [&, moe, layer = op.layer] {
          load_experts(*moe, layer, checkpoint, pool);
        };
      }
    }
    load_weights(plan_, checkpoint, progress, [&](const PlannedWeight& planned) {
      const auto part = parts.find(planned.name);
      if (part == parts.end()) {
        load(checkpoint, planned, pool);
      } else if (part->second) {
        part->second();
      }
    });
  }

  [[nodiscard]] std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t workspace_bytes(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t weight_bytes() const override {
    std::size_t bytes = 0;
    for (const auto& [name, matrix] : matrices_) bytes += matrix->bytes();
    for (const auto& [name, vector] : vectors_) bytes += vector->size();
    for (const auto& [layer, latent] : latents_) bytes += latent->bytes();
    for (const auto& [layer, experts] : experts_) bytes += experts->bytes();
    return bytes;
  }

  // What load() will take.
  [[nodiscard]] std::size_t estimate_weights(const Checkpoint& checkpoint) const;

  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] Activations activations() const { return activations_; }
  [[nodiscard]] const Linear& matrix(const std::string& name) const { return *matrices_.at(name); }
  [[nodiscard]] DeviceBuffer* vector(const std::string& name) const {
    return name.empty() ? nullptr : vectors_.at(name).get();
  }
  [[nodiscard]] const LatentAttention& latent(int layer) const { return *latents_.at(layer); }
  [[nodiscard]] const Experts& experts(int layer) const { return *experts_.at(layer); }

 private:
  void load(const Checkpoint& checkpoint, const PlannedWeight& planned, ThreadPool& pool) {
    if (planned.matrix) {
      auto& matrix = matrices_[planned.name];
      matrix = std::make_unique<Linear>(*device_, planned.name, checkpoint.load(planned.name, pool), planned.shape[0],
                                        planned.shape[1], pool);
      matrix->tune(tuned_);
    } else {
      vectors_[planned.name] = device_->allocate_with(load_vector(checkpoint, planned, pool));
    }
  }

  void load_experts(const MoeOp& op, int layer, const Checkpoint& checkpoint, ThreadPool& pool) {
    experts_[layer] = std::make_unique<Experts>(
        *device_, op.prefix, op.experts, plan_.width(op.in), op.intermediate,
        [&](std::int64_t expert, const char* projection) {
          return checkpoint.load(expert_weight(op, expert, projection), pool);
        },
        pool);
  }

  Plan plan_;
  std::shared_ptr<Device> device_;
  Activations activations_;
  TunedTiles tuned_{TunedTiles::default_file()};
  std::map<std::string, std::unique_ptr<Linear>> matrices_;
  std::map<int, std::unique_ptr<LatentAttention>> latents_;
  std::map<int, std::unique_ptr<Experts>> experts_;
  std::map<std::string, std::unique_ptr<DeviceBuffer>> vectors_;
};

class MslRunner final : public Runner {
 public:
  MslRunner(const MslModel& model, Device& device, const RunnerLimits& limits, CacheType cache)
      : model_(model),
        plan_(model.plan()),
        device_(device),
        queue_(device_.make_queue()),
        limits_(limits),
        cache_type_(cache),
        spare_pages_(static_cast<int>(pages_for(most_padding(limits.tokens)))) {
    std::int64_t cols = 1;
    std::int64_t rows = 1;
    for (const Op& op : plan_.ops) {
      const auto* const linear = op.as<LinearOp>();
      if (linear == nullptr) continue;
      cols = std::max(cols, width(linear->in));
      rows = std::max(rows, width(linear->out));
    }
    workspace_.emplace(device_, std::max(limits.tokens, limits.selected), cols, rows);
    for (const PlanBuffer& buffer : plan_.buffers) {
      const std::int64_t count = buffer.selected ? limits.selected : limits.tokens;
      buffers_.push_back(device_.allocate(static_cast<std::size_t>(count * buffer.width) * sizeof(float)));
    }
    make_workspaces();
    const auto tokens = static_cast<std::size_t>(limits.tokens);
    tokens_ = device_.allocate(tokens * sizeof(std::int32_t));
    positions_ = device_.allocate(tokens * sizeof(std::int32_t));
    sequences_ = device_.allocate(tokens * sizeof(std::int32_t));
    selected_ = device_.allocate(static_cast<std::size_t>(limits.selected) * sizeof(std::int32_t));
    const auto starts = static_cast<std::size_t>(limits.sequences) + 2;
    q_starts_ = device_.allocate(starts * sizeof(std::int32_t));
    k_starts_ = device_.allocate(starts * sizeof(std::int32_t));
    host_q_starts_.resize(starts);
    host_k_starts_.resize(starts);
    for (const RopeTable& rope : plan_.ropes) frequencies_.push_back(device_.allocate_with(rope.frequencies));
    host_tokens_.resize(tokens);
    host_positions_.resize(tokens);
    host_sequences_.resize(tokens);
    host_selected_.resize(static_cast<std::size_t>(limits.selected));
    host_output_.resize(buffer(plan_.result()).size() / sizeof(float));
    draw_.emplace(device_, limits.selected, width(plan_.result()));
    grow_cache(limits.pages);
    make_observed();
  }

  void submit(const Batch& batch) override {
    const auto bucket = [](std::size_t n, int most) { return bucket_of(static_cast<std::int64_t>(n), most); };
    StepShape shape{bucket(batch.tokens.size(), limits_.tokens), bucket(batch.selected.size(), limits_.selected),
                    !batch.samplers.empty()};
    if (const auto* const op = plan_.find<AttentionOp>())  // all have one shape
      shape.tiled = tiles_cost_less(device_, paged_params(*op, shape.tokens), cache_type_, batch.sequences);
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

  void grow_cache(int pages) override {
    encoded_.clear();  // they name the buffers that go
    const auto grow = [&](std::vector<std::unique_ptr<DeviceBuffer>>& layers, std::size_t page) {
      layers.resize(static_cast<std::size_t>(plan_.layers));  // each a buffer: devices limit how large one is
      for (auto& layer : layers) {
        auto larger = device_.allocate(page * static_cast<std::size_t>(pages + spare_pages_));
        if (layer) queue_->copy(*layer, 0, *larger, 0, page * static_cast<std::size_t>(pages_));
        layer = std::move(larger);
      }
    };
    grow(keys_, page_bytes(plan_.cache, cache_type_, plan_.cache.key_dim));
    if (!plan_.cache.latent) grow(values_, page_bytes(plan_.cache, cache_type_, plan_.cache.value_dim));
    pages_ = pages;
    table_stride_ = std::max(pages, spare_pages_);
    tables_ = device_.allocate(static_cast<std::size_t>(limits_.sequences + 1) *
                               static_cast<std::size_t>(table_stride_) * sizeof(std::int32_t));
    std::vector<std::int32_t> spare(static_cast<std::size_t>(spare_pages_));
    std::iota(spare.begin(), spare.end(), pages);
    upload_table(limits_.sequences, spare);
  }

  void copy_page(std::int32_t from, std::int32_t to) override {
    const auto copy = [&](const std::vector<std::unique_ptr<DeviceBuffer>>& layers, std::size_t page) {
      for (const auto& layer : layers) {
        queue_->copy(*layer, page * static_cast<std::size_t>(from), *layer, page * static_cast<std::size_t>(to), page);
      }
    };
    copy(keys_, page_bytes(plan_.cache, cache_type_, plan_.cache.key_dim));
    copy(values_, page_bytes(plan_.cache, cache_type_, plan_.cache.value_dim));
  }

  [[nodiscard]] std::vector<std::vector<std::int64_t>> expert_counts() const override { return expert_counts_; }

 private:
  void end_step() {
    running_->wait();
    if (limits_.count_experts) count_experts();
    if (batch_->observer != nullptr) show_observed();
  }

  void make_workspaces() {
    std::size_t partial = 1;
    const auto measure = [&](PagedParams p) {
      for (std::int64_t tokens = 1; tokens <= limits_.tokens; tokens *= 2) {
        p.splits = paged_splits(device_, p, DType::kF32, cache_type_, tokens, kMostSplits);
        if (p.splits == 1) break;
        // Of up to twice as many tokens, which have no more splits.
        partial = std::max(partial, paged_partial_bytes(p, std::min<std::int64_t>(2 * tokens, limits_.tokens)));
      }
    };
    // All ops of a kind have one shape.
    if (const auto* const latent = plan_.find<LatentAttentionOp>()) {
      latent_workspace_.emplace(device_, *latent, limits_.tokens);
      measure(latent_paged_params(*latent));
    }
    if (const auto* const attention = plan_.find<AttentionOp>()) measure(paged_params(*attention, 1));
    partial_ = device_.allocate(partial);
    if (const auto* const moe = plan_.find<MoeOp>()) {
      experts_workspace_.emplace(device_, limits_.tokens, moe->top_k, moe->experts, width(moe->in), moe->intermediate);
      const auto assignments = static_cast<std::size_t>(limits_.tokens * moe->top_k);
      expert_weights_ = device_.allocate(assignments * sizeof(float));
      for (const Op& op : plan_.ops) {
        if (const auto* const each = op.as<MoeOp>())
          expert_ids_[op.layer] = {each, device_.allocate(assignments * sizeof(std::int32_t))};
      }
    }
  }

  // Steps of so many shapes stay encoded.
  static constexpr std::size_t kKeptShapes = 64;

  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.width(id); }
  [[nodiscard]] DeviceBuffer& buffer(BufferId id) const { return *buffers_[static_cast<std::size_t>(id)]; }
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
    queue_->upload(*tables_, std::as_bytes(pages),
                   static_cast<std::size_t>(sequence) * static_cast<std::size_t>(table_stride_) * sizeof(std::int32_t));
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
    upload(*tokens_, host_tokens_, shape.tokens);
    upload(*positions_, host_positions_, shape.tokens);
    upload(*sequences_, host_sequences_, shape.tokens);
    upload(*selected_, host_selected_, shape.selected);
    if (shape.tiled) upload_starts(batch, shape);
    if (const auto* const input = plan_.find<InputOp>()) upload_input(*input, batch, shape);
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
    upload(*q_starts_, host_q_starts_, static_cast<std::int64_t>(host_q_starts_.size()));
    upload(*k_starts_, host_k_starts_, static_cast<std::int64_t>(host_k_starts_.size()));
  }

  void upload_input(const InputOp& op, const Batch& batch, const StepShape& shape) {
    const auto row = static_cast<std::size_t>(width(op.out));
    host_input_.assign(static_cast<std::size_t>(shape.tokens) * row, 0.0F);
    std::copy_n(batch.input, batch.tokens.size() * row, host_input_.begin());
    upload(buffer(op.out), host_input_, shape.tokens * width(op.out));
  }

  // What is observed is copied while the step runs, and shown when it has.
  struct Observed {
    const ObserveOp* op;
    std::unique_ptr<DeviceBuffer> rows;
  };
  void make_observed() {
    for (const Op& op : plan_.ops) {
      const auto* const observe = op.as<ObserveOp>();
      if (observe == nullptr) continue;
      observed_.push_back({observe, device_.allocate(buffer(observe->in).size())});
    }
    if (observed_.empty()) return;
    std::vector<std::int32_t> all(static_cast<std::size_t>(limits_.tokens));
    std::iota(all.begin(), all.end(), 0);
    all_rows_ = device_.allocate_with(all);
  }
  void show_observed() {
    std::vector<float> rows;
    for (const Observed& observed : observed_) {
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
    for (const auto& [layer, chosen] : expert_ids_) {
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
      queue_->upload(*frequencies_[table], std::as_bytes(std::span(common)));
    }
  }

  [[nodiscard]] DeviceBuffer& frequencies(int rope) const { return *frequencies_[static_cast<std::size_t>(rope)]; }

  // One step's ops.
  struct Encoding {
    Commands& commands;
    std::int64_t tokens;
    std::int64_t selected;
    bool tiled;
    int layer = -1;  // of the step
    // The buffer whose activations the workspace holds ready, and as what.
    BufferId ready = -1;
    DType ready_type = DType::kF32;
    std::size_t observed = 0;  // ObserveOps so far
  };

  std::unique_ptr<Commands> encode(const StepShape& shape) {
    std::unique_ptr<Commands> commands = queue_->commands();
    Encoding encoding{*commands, shape.tokens, shape.selected, shape.tiled};
    for (const FusedStep& step : fuse(plan_, fusion(encoding.tokens))) {
      encoding.layer = step.layer();
      std::visit([&](const auto& form) { run(encoding, step, form); }, step.form);
    }
    if (shape.sampled) draw_->encode(*commands, shape.selected, buffer(plan_.result()));
    return commands;
  }

  [[nodiscard]] FuseCapabilities fusion(std::int64_t tokens) const {
    FuseCapabilities out = kFusion;
    out.gate_up = [this, tokens](const LinearOp& gate, const LinearOp& up) {
      return tokens >= kFusedTokens && model_.activations() != Activations::kF32 && gate.bias.empty() &&
             up.bias.empty() && can_fuse_gate_up(model_.matrix(gate.weight), model_.matrix(up.weight));
    };
    out.prepares = [this](const LinearOp& linear) {
      return !linear.exact && model_.matrix(linear.weight).prepared_type(model_.activations()) != DType::kF32;
    };
    return out;
  }

  void run(Encoding& e, const FusedStep& step, const SingleOp& form) {
    if (form.reader != nullptr) return run_prepared(e, step.ops.front(), *form.reader);
    std::visit([&](const auto& op) { run(e, op); }, step.ops.front().body);
    written(e, step);
  }

  void run(Encoding& e, const FusedStep& step, const FusedHeads& form) {
    std::optional<HeadNorms> norms;
    if (form.q_norm != nullptr)
      norms = HeadNorms{model_.vector(form.q_norm->weight), model_.vector(form.k_norm->weight), form.q_norm->eps};
    run_rope(e, *form.q_rope, form.k_rope, norms);
    written(e, step);
  }

  void run(Encoding& e, const FusedStep& step, const FusedLinears& form) {
    const LinearOp& linear = *form.linears.front();
    if (form.product != nullptr) {
      run_gate_up(e, form);
    } else if (form.sum != nullptr) {
      run_linear(e, linear, form.sum->x, true);
    } else {
      run_linear(e, linear, linear.out, false);
    }
    written(e, step);
  }

  void run_gate_up(Encoding& e, const FusedLinears& form) {
    const BufferId in = form.linears[0]->in;
    const Linear& gate = model_.matrix(form.linears[0]->weight);
    const DType type = gate.prepared_type(model_.activations());
    GateUpCall call;
    call.x = e.ready == in && e.ready_type == type ? nullptr : &buffer(in);
    call.y = &buffer(form.product->out);
    call.tokens = rows(e, in);
    encode_gate_up(device_, e.commands, gate, model_.matrix(form.linears[1]->weight), call, *workspace_);
    e.ready = in;
    e.ready_type = type;
  }

  // A norm or a gated product whose result is prepared for `reader` too.
  void run_prepared(Encoding& e, const Op& op, const LinearOp& reader) {
    const BufferId out = reader.in;
    if (rows(e, out) == 0) return;
    const DType type = model_.matrix(reader.weight).prepared_type(model_.activations());
    if (const auto* const norm = op.as<RmsNormOp>()) {
      encode_prepare_norm(device_, e.commands, type, rows(e, out), norm->width, norm->eps, buffer(norm->in),
                          *model_.vector(norm->weight), buffer(out), *workspace_);
    } else {
      const auto& product = std::get<SwigluOp>(op.body);
      encode_prepare_gated(device_, e.commands, type, rows(e, out), width(out), Activation::kSilu, buffer(product.gate),
                           buffer(product.up), buffer(out), *workspace_);
    }
    e.ready = out;
    e.ready_type = type;
  }

  [[nodiscard]] std::int64_t rows(const Encoding& e, BufferId id) const {
    return is_selected(id) ? e.selected : e.tokens;
  }
  // What was prepared of a buffer that has been written since is of no use.
  static void written(Encoding& e, const FusedStep& step) {
    for (const Op& op : step.ops) {
      for (const BufferId id : written_buffers(op)) e.ready = e.ready == id ? -1 : e.ready;
    }
  }

  void run(Encoding& e, const EmbeddingOp& op) {
    model_.matrix(op.weight).encode_rows(e.commands, e.tokens, *tokens_, buffer(op.out));
  }

  void run(Encoding& e, const RmsNormOp& op) {
    encode_rms_norm(device_, e.commands, DType::kF32, rows(e, op.in) * width(op.in) / op.width, op.width, op.eps,
                    buffer(op.in), *model_.vector(op.weight), buffer(op.out));
  }

  void run(Encoding& e, const LinearOp& op) { run_linear(e, op, op.out, false); }
  void run_linear(Encoding& e, const LinearOp& op, BufferId out, bool accumulate) {
    if (rows(e, op.in) == 0) return;
    const Linear& linear = model_.matrix(op.weight);
    const Activations mode = op.exact ? Activations::kF32 : model_.activations();
    const DType type = linear.prepared_type(mode);
    Linear::Call call;
    const bool ready = type != DType::kF32 && e.ready == op.in && e.ready_type == type;
    call.x = ready ? nullptr : &buffer(op.in);
    call.y = &buffer(out);
    call.tokens = rows(e, op.in);
    call.bias = model_.vector(op.bias);
    call.mode = mode;
    call.accumulate = accumulate;
    linear.encode(e.commands, call, *workspace_);
    if (type == DType::kF32) return;
    e.ready = op.in;
    e.ready_type = type;
  }

  void run(Encoding& e, const RopeOp& op) { run_rope(e, op, nullptr, std::nullopt); }
  // k: rotated in the same launch, or null.
  void run_rope(Encoding& e, const RopeOp& op, const RopeOp* k, const std::optional<HeadNorms>& norms) {
    RopeParams p;
    p.q_heads = static_cast<std::uint32_t>(op.heads);
    p.head_dim = p.rotary_dim = static_cast<std::uint32_t>(op.head_dim);
    p.q_stride = static_cast<std::uint32_t>(width(op.x));
    p.scale = plan_.ropes[static_cast<std::size_t>(op.rope)].scale;
    if (k != nullptr) {
      p.k_heads = static_cast<std::uint32_t>(k->heads);
      p.k_stride = static_cast<std::uint32_t>(width(k->x));
    }
    DeviceBuffer* const keys = k != nullptr ? &buffer(k->x) : nullptr;
    if (norms) {
      encode_norm_rope(device_, e.commands, p, DType::kF32, e.tokens, buffer(op.x), keys, frequencies(op.rope),
                       *positions_, *norms);
    } else {
      encode_rope(device_, e.commands, p, DType::kF32, e.tokens, buffer(op.x), keys, frequencies(op.rope), *positions_);
    }
  }

  [[nodiscard]] PagedParams paged_params(const AttentionOp& op, std::int64_t tokens) const {
    PagedParams p;
    p.heads = static_cast<std::uint32_t>(op.heads);
    p.kv_heads = static_cast<std::uint32_t>(op.kv_heads);
    p.key_dim = p.value_dim = static_cast<std::uint32_t>(op.head_dim);
    p.table_stride = static_cast<std::uint32_t>(table_stride_);
    p.q_stride = static_cast<std::uint32_t>(width(op.q));
    p.k_stride = static_cast<std::uint32_t>(width(op.k));
    p.v_stride = static_cast<std::uint32_t>(width(op.v));
    p.out_stride = static_cast<std::uint32_t>(width(op.out));
    p.window = static_cast<std::uint32_t>(op.window);
    p.scale = op.scale;
    p.split_keys = kSplitKeys;
    p.rounded = model_.activations() == Activations::kF32 ? 0 : 1;
    p.splits = paged_splits(device_, p, DType::kF32, cache_type_, tokens, kMostSplits);
    return p;
  }

  [[nodiscard]] PagedBuffers paged_buffers(int layer) const {
    PagedBuffers b;
    b.keys = keys_[static_cast<std::size_t>(layer)].get();
    b.values = values_.empty() ? nullptr : values_[static_cast<std::size_t>(layer)].get();
    b.tables = tables_.get();
    b.sequences = sequences_.get();
    b.positions = positions_.get();
    b.partial = partial_.get();
    return b;
  }

  void run(Encoding& e, const AttentionOp& op) {
    const PagedParams p = paged_params(op, e.tokens);
    const PagedBuffers b = paged_buffers(e.layer);
    encode_store_kv(device_, e.commands, p, DType::kF32, cache_type_, e.tokens, buffer(op.k), buffer(op.v), b);
    if (e.tiled) {
      encode_paged_tiles(device_, e.commands, p, cache_type_, e.tokens, buffer(op.q), buffer(op.out), b,
                         {limits_.sequences + 1, q_starts_.get(), k_starts_.get()});
    } else {
      encode_paged_attention(device_, e.commands, p, DType::kF32, cache_type_, e.tokens, buffer(op.q), buffer(op.out),
                             b);
    }
  }

  void run(Encoding& e, const LatentAttentionOp& op) {
    const LatentAttention& latent = model_.latent(e.layer);
    LatentCall call;
    call.q = &buffer(op.q);
    call.latent = &buffer(op.latent);
    call.out = &buffer(op.out);
    call.tokens = e.tokens;
    call.norm = model_.vector(op.norm);
    call.frequencies = &frequencies(op.rope);
    call.rope_scale = plan_.ropes[static_cast<std::size_t>(op.rope)].scale;
    call.cache = cache_type_;
    call.paged = paged_buffers(e.layer);
    call.table_stride = static_cast<std::uint32_t>(table_stride_);
    call.splits = paged_splits(device_, latent_paged_params(op), DType::kF32, cache_type_, e.tokens, kMostSplits);
    call.split_keys = kSplitKeys;
    latent.encode(e.commands, call, *latent_workspace_);
  }

  void run(Encoding& e, const MoeOp& op) {
    RouterOptions router;
    router.experts = static_cast<std::uint32_t>(op.experts);
    router.chosen = static_cast<std::uint32_t>(op.top_k);
    router.groups = static_cast<std::uint32_t>(op.groups);
    router.group_limit = static_cast<std::uint32_t>(op.top_groups);
    router.sigmoid = op.scoring == RouterScoring::kSigmoid;
    router.normalize = op.normalize;
    router.scale = op.scale;
    encode_moe_router(device_, e.commands, router, e.tokens, buffer(op.logits), model_.vector(op.router_bias),
                      *expert_ids_.at(e.layer).ids, *expert_weights_);
    ExpertsCall call;
    call.x = &buffer(op.in);
    call.ids = expert_ids_.at(e.layer).ids.get();
    call.weights = expert_weights_.get();
    call.y = &buffer(op.out);
    call.tokens = e.tokens;
    call.chosen = op.top_k;
    call.mode = model_.activations();
    call.down_rotation = static_cast<std::uint32_t>(op.down_rotation);
    model_.experts(e.layer).encode(e.commands, call, *experts_workspace_);
  }

  void run(Encoding& e, const SwigluOp& op) {
    encode_gated(device_, e.commands, DType::kF32, rows(e, op.out) * width(op.out), Activation::kSilu, buffer(op.gate),
                 buffer(op.up), buffer(op.out));
  }

  void run(Encoding& e, const AddOp& op) {
    encode_residual(device_, e.commands, DType::kF32, rows(e, op.x) * width(op.x), buffer(op.x), buffer(op.y));
  }

  void run(Encoding& e, const HadamardOp& op) {
    encode_hadamard(device_, e.commands, DType::kF32, rows(e, op.in), width(op.in),
                    static_cast<std::uint32_t>(op.block), HadamardDirection::kForward, buffer(op.in), buffer(op.out));
  }

  void run(Encoding& e, const SelectOp& op) {
    encode_select_rows(device_, e.commands, DType::kF32, e.selected, width(op.in), buffer(op.in), *selected_,
                       buffer(op.out));
  }

  static void run(Encoding&, const InputOp&) {}  // uploaded with the batch

  void run(Encoding& e, const ObserveOp& op) {
    encode_select_rows(device_, e.commands, DType::kF32, rows(e, op.in), width(op.in), buffer(op.in), *all_rows_,
                       *observed_[e.observed++].rows);
  }

  const MslModel& model_;
  const Plan& plan_;
  Device& device_;
  std::unique_ptr<Queue> queue_;
  RunnerLimits limits_;
  CacheType cache_type_;
  int spare_pages_;  // after the cache's own: of tokens that fill a shape
  std::optional<LinearWorkspace> workspace_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;  // of the plan
  std::optional<LatentWorkspace> latent_workspace_;
  std::optional<ExpertsWorkspace> experts_workspace_;
  struct ChosenExperts {
    const MoeOp* op;
    std::unique_ptr<DeviceBuffer> ids;
  };
  std::map<int, ChosenExperts> expert_ids_;  // by layer
  std::unique_ptr<DeviceBuffer> expert_weights_;
  std::vector<std::vector<std::int64_t>> expert_counts_;
  std::unique_ptr<DeviceBuffer> partial_;
  std::vector<std::unique_ptr<DeviceBuffer>> keys_;    // of each layer
  std::vector<std::unique_ptr<DeviceBuffer>> values_;  // likewise; none where latent
  std::unique_ptr<DeviceBuffer> tokens_;
  std::unique_ptr<DeviceBuffer> positions_;
  std::unique_ptr<DeviceBuffer> sequences_;
  std::unique_ptr<DeviceBuffer> selected_;
  std::unique_ptr<DeviceBuffer> tables_;
  std::unique_ptr<DeviceBuffer> q_starts_;  // of the tables' rows: PagedTiles
  std::unique_ptr<DeviceBuffer> k_starts_;
  std::vector<std::unique_ptr<DeviceBuffer>> frequencies_;  // of the plan's rope tables
  std::unique_ptr<DeviceBuffer> all_rows_;                  // their indices
  std::vector<Observed> observed_;                          // in the order of the plan
  std::optional<TokenDraw> draw_;
  int pages_ = 0;
  int table_stride_ = 0;
  std::vector<std::int32_t> host_tokens_;
  std::vector<std::int32_t> host_positions_;
  std::vector<std::int32_t> host_sequences_;
  std::vector<std::int32_t> host_selected_;
  std::vector<std::int32_t> host_q_starts_;
  std::vector<std::int32_t> host_k_starts_;
  std::vector<float> host_input_;
  std::vector<float> host_output_;
  EncodedSteps encoded_{kKeptShapes};
  Commands* running_ = nullptr;
  const Batch* batch_ = nullptr;
};

std::unique_ptr<Runner> MslModel::make_runner(const RunnerLimits& limits, CacheType cache) const {
  return std::make_unique<MslRunner>(*this, *device_, limits, cache);
}

std::size_t MslModel::workspace_bytes(const RunnerLimits& limits, CacheType cache) const {
  MeasuringDevice measuring(*device_);
  const MslRunner measured(*this, measuring, limits, cache);
  return measuring.bytes() -
         static_cast<std::size_t>(limits.pages) * cache_page_bytes(plan_.cache, plan_.layers, cache);
}

std::size_t MslModel::estimate_weights(const Checkpoint& checkpoint) const {
  std::size_t bytes = 0;
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

class MslBackend final : public Backend {
 public:
  MslBackend(std::string name, std::shared_ptr<Device> device, std::shared_ptr<ThreadPool> pool)
      : name_(std::move(name)), device_(std::move(device)), pool_(std::move(pool)) {}

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::string device() const override { return device_->name(); }
  [[nodiscard]] std::size_t available_memory() const override { return device_->available_memory(); }
  [[nodiscard]] Capabilities capabilities() const override { return {.fusion = kFusion, .tunable = true}; }
  [[nodiscard]] MemoryEstimate estimate_memory(const Plan& plan, const Checkpoint& checkpoint, Activations activations,
                                               const RunnerLimits& limits, CacheType cache) const override {
    const MslModel model(with_rotations(plan, checkpoint), device_, activations);
    return {model.estimate_weights(checkpoint), model.workspace_bytes(limits, cache),
            cache_page_bytes(plan.cache, plan.layers, cache), most_pages(plan.cache, cache)};
  }
  [[nodiscard]] std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint,
                                                             const PrepareOptions& options) const override {
    auto model = std::make_shared<MslModel>(with_rotations(plan, checkpoint), device_, options.activations);
    model->load(checkpoint, *pool_, options.progress);
    return model;
  }

 private:
  static constexpr std::int64_t kUsualTokens = 4096;  // of a step, at most

  // Keys of a layer lie in one buffer, and values.
  [[nodiscard]] std::int64_t most_pages(const CacheShape& shape, CacheType cache) const {
    const std::int64_t widest = shape.latent ? shape.key_dim : std::max(shape.key_dim, shape.value_dim);
    const std::size_t pages =
        device_->traits().largest_buffer / std::max<std::size_t>(page_bytes(shape, cache, widest), 1);
    // A runner has some beside those of its sequences.
    const std::int64_t spare = pages_for(most_padding(kUsualTokens));
    return std::max<std::int64_t>(static_cast<std::int64_t>(std::min<std::size_t>(pages, INT32_MAX)) - spare, 1);
  }

  std::string name_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<ThreadPool> pool_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(std::string name, std::shared_ptr<Device> device,
                                      std::shared_ptr<ThreadPool> pool) {
  return std::make_unique<MslBackend>(std::move(name), std::move(device), std::move(pool));
}

}  // namespace metal_marlin::msl

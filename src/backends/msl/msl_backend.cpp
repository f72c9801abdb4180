#include "backends/msl/msl_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "backends/msl/epilogue.h"
#include "backends/msl/paged_attention.h"
#include "backends/msl/rope.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

using PlanBuffer = metal_marlin::Buffer;
using DeviceBuffer = msl::Buffer;

class MslModel final : public PreparedModel {
 public:
  MslModel(Plan plan, std::shared_ptr<Device> device, Activations activations)
      : plan_(std::move(plan)), device_(std::move(device)), activations_(activations) {}

  void load(const Checkpoint& checkpoint, ThreadPool& pool, const LoadProgress& progress) {
    load_weights(plan_, checkpoint, progress, [&](const PlannedWeight& planned) { load(checkpoint, planned, pool); });
    frequencies_ = device_->allocate_with(plan_.rope_frequencies);
  }

  [[nodiscard]] std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t weight_bytes() const override {
    std::size_t bytes = 0;
    for (const auto& [name, matrix] : matrices_) bytes += matrix->bytes();
    for (const auto& [name, vector] : vectors_) bytes += vector->size();
    return bytes;
  }

  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] Device& device() const { return *device_; }
  [[nodiscard]] Activations activations() const { return activations_; }
  [[nodiscard]] const Linear& matrix(const std::string& name) const { return *matrices_.at(name); }
  [[nodiscard]] DeviceBuffer* vector(const std::string& name) const {
    return name.empty() ? nullptr : vectors_.at(name).get();
  }
  [[nodiscard]] DeviceBuffer& frequencies() const { return *frequencies_; }

 private:
  void load(const Checkpoint& checkpoint, const PlannedWeight& planned, ThreadPool& pool) {
    if (planned.matrix) {
      matrices_[planned.name] = std::make_unique<Linear>(*device_, planned.name, checkpoint.load(planned.name, pool),
                                                         planned.shape[0], planned.shape[1], pool);
    } else {
      vectors_[planned.name] = device_->allocate_with(load_vector(checkpoint, planned, pool));
    }
  }

  Plan plan_;
  std::shared_ptr<Device> device_;
  Activations activations_;
  std::map<std::string, std::unique_ptr<Linear>> matrices_;
  std::map<std::string, std::unique_ptr<DeviceBuffer>> vectors_;
  std::unique_ptr<DeviceBuffer> frequencies_;
};

class MslRunner final : public Runner {
 public:
  MslRunner(const MslModel& model, const RunnerLimits& limits, CacheType cache)
      : model_(model),
        plan_(model.plan()),
        device_(model.device()),
        limits_(limits),
        cache_type_(cache == CacheType::kF16 ? DType::kF16 : DType::kF32) {
    std::int64_t cols = 1;
    std::int64_t rows = 1;
    for (const Op& op : plan_.ops) {
      const auto* const linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr) continue;
      cols = std::max(cols, width(linear->in));
      rows = std::max(rows, width(linear->out));
    }
    workspace_.emplace(device_, std::max(limits.tokens, limits.selected), cols, rows);
    for (const PlanBuffer& buffer : plan_.buffers) {
      const std::int64_t count = buffer.selected ? limits.selected : limits.tokens;
      buffers_.push_back(device_.allocate(static_cast<std::size_t>(count * buffer.width) * sizeof(float)));
    }
    layer_bytes_ = static_cast<std::size_t>(limits.pages) *
                   static_cast<std::size_t>(plan_.cache.heads * kCachePageTokens) *
                   static_cast<std::size_t>(plan_.cache.key_dim) * (cache_type_ == DType::kF16 ? 2 : 4);
    keys_ = device_.allocate(layer_bytes_ * static_cast<std::size_t>(plan_.layers));
    values_ = device_.allocate(layer_bytes_ * static_cast<std::size_t>(plan_.layers));
    const auto tokens = static_cast<std::size_t>(limits.tokens);
    tokens_ = device_.allocate(tokens * sizeof(std::int32_t));
    positions_ = device_.allocate(tokens * sizeof(std::int32_t));
    sequences_ = device_.allocate(tokens * sizeof(std::int32_t));
    selected_ = device_.allocate(static_cast<std::size_t>(limits.selected) * sizeof(std::int32_t));
    tables_ = device_.allocate(static_cast<std::size_t>(limits.sequences) * static_cast<std::size_t>(limits.pages) *
                               sizeof(std::int32_t));
    host_positions_.resize(tokens);
    host_sequences_.resize(tokens);
    logits_.resize(static_cast<std::size_t>(limits.selected * plan_.vocab));
  }

  const float* step(const Batch& batch) override {
    upload(batch);
    const auto shape = std::pair(batch.tokens.size(), batch.selected.size());
    auto found = encoded_.find(shape);
    if (found == encoded_.end()) {
      if (encoded_.size() == kKeptShapes) encoded_.clear();
      found = encoded_.emplace(shape, encode(shape.first, shape.second)).first;
    }
    found->second->commit();
    found->second->wait();
    const std::size_t count = batch.selected.size() * static_cast<std::size_t>(plan_.vocab);
    buffer(plan_.logits).download(std::as_writable_bytes(std::span(logits_).first(count)));
    return logits_.data();
  }

 private:
  // Steps of so many shapes (tokens, logits) stay encoded.
  static constexpr std::size_t kKeptShapes = 64;

  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.buffers[static_cast<std::size_t>(id)].width; }
  [[nodiscard]] DeviceBuffer& buffer(BufferId id) const { return *buffers_[static_cast<std::size_t>(id)]; }

  // What a batch is, all of it in buffers, so that its encoding depends on its shape alone.
  void upload(const Batch& batch) {
    for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
      const SequenceSlice& sequence = batch.sequences[s];
      for (int i = 0; i < sequence.count; ++i) {
        const auto at = static_cast<std::size_t>(sequence.first) + static_cast<std::size_t>(i);
        host_positions_[at] = static_cast<std::int32_t>(sequence.past + i);
        host_sequences_[at] = static_cast<std::int32_t>(s);
      }
      tables_->upload(std::as_bytes(sequence.pages),
                      s * static_cast<std::size_t>(limits_.pages) * sizeof(std::int32_t));
    }
    const std::size_t count = batch.tokens.size();
    tokens_->upload(std::as_bytes(batch.tokens));
    positions_->upload(std::as_bytes(std::span(host_positions_).first(count)));
    sequences_->upload(std::as_bytes(std::span(host_sequences_).first(count)));
    selected_->upload(std::as_bytes(batch.selected));
  }

  // One step's ops.
  struct Encoding {
    Commands& commands;
    std::int64_t tokens;
    std::int64_t selected;
    // The buffer whose activations the workspace holds ready, and as what.
    BufferId ready = -1;
    DType ready_type = DType::kF32;
  };

  std::unique_ptr<Commands> encode(std::size_t tokens, std::size_t selected) {
    std::unique_ptr<Commands> commands = device_.commands();
    Encoding encoding{*commands, static_cast<std::int64_t>(tokens), static_cast<std::int64_t>(selected)};
    for (const Op& op : plan_.ops) {
      std::visit([&](const auto& o) { run(encoding, o); }, op);
    }
    return commands;
  }

  [[nodiscard]] std::int64_t rows(const Encoding& e, BufferId id) const {
    return plan_.buffers[static_cast<std::size_t>(id)].selected ? e.selected : e.tokens;
  }
  static void written(Encoding& e, BufferId id) {
    if (e.ready == id) e.ready = -1;
  }

  void run(Encoding& e, const EmbeddingOp& op) {
    model_.matrix(op.weight).encode_rows(e.commands, e.tokens, *tokens_, buffer(op.out));
    written(e, op.out);
  }

  void run(Encoding& e, const RmsNormOp& op) {
    encode_rms_norm(device_, e.commands, DType::kF32, rows(e, op.in) * width(op.in) / op.width, op.width, op.eps,
                    buffer(op.in), *model_.vector(op.weight), buffer(op.out));
    written(e, op.out);
  }

  void run(Encoding& e, const LinearOp& op) {
    if (rows(e, op.in) == 0) return;
    const Linear& linear = model_.matrix(op.weight);
    const DType type = linear.prepared_type(model_.activations());
    Linear::Call call;
    const bool ready = type != DType::kF32 && e.ready == op.in && e.ready_type == type;
    call.x = ready ? nullptr : &buffer(op.in);
    call.y = &buffer(op.out);
    call.tokens = rows(e, op.in);
    call.bias = model_.vector(op.bias);
    call.mode = model_.activations();
    linear.encode(e.commands, call, *workspace_);
    if (type != DType::kF32) {
      e.ready = op.in;
      e.ready_type = type;
    }
    written(e, op.out);
  }

  void run(Encoding& e, const RopeOp& op) {
    RopeParams p;
    p.q_heads = static_cast<std::uint32_t>(op.heads);
    p.head_dim = p.rotary_dim = static_cast<std::uint32_t>(op.head_dim);
    p.q_stride = static_cast<std::uint32_t>(width(op.x));
    p.scale = plan_.rope_scale;
    encode_rope(device_, e.commands, p, DType::kF32, e.tokens, buffer(op.x), nullptr, model_.frequencies(),
                *positions_);
    written(e, op.x);
  }

  void run(Encoding& e, const AttentionOp& op) {
    PagedParams p;
    p.heads = static_cast<std::uint32_t>(op.heads);
    p.kv_heads = static_cast<std::uint32_t>(op.kv_heads);
    p.head_dim = static_cast<std::uint32_t>(op.head_dim);
    p.page_tokens = kCachePageTokens;
    p.table_stride = static_cast<std::uint32_t>(limits_.pages);
    p.q_stride = static_cast<std::uint32_t>(width(op.q));
    p.kv_stride = static_cast<std::uint32_t>(width(op.k));
    p.out_stride = static_cast<std::uint32_t>(width(op.out));
    p.window = static_cast<std::uint32_t>(op.window);
    p.scale = op.scale;
    PagedBuffers b;
    b.keys = keys_.get();
    b.values = values_.get();
    b.offset = layer_bytes_ * static_cast<std::size_t>(op.layer);
    b.tables = tables_.get();
    b.sequences = sequences_.get();
    b.positions = positions_.get();
    encode_store_kv(device_, e.commands, p, DType::kF32, cache_type_, e.tokens, buffer(op.k), buffer(op.v), b);
    encode_paged_attention(device_, e.commands, p, DType::kF32, cache_type_, e.tokens, buffer(op.q), buffer(op.out), b);
    written(e, op.out);
  }

  static void run(Encoding&, const LatentAttentionOp& op) { unsupported(op); }
  static void run(Encoding&, const MoeOp& op) { unsupported(op); }
  [[noreturn]] static void unsupported(const Op& op) {
    throw Error(ErrorCode::kUnsupported, "the msl backend has no kernel for: " + describe(op));
  }

  void run(Encoding& e, const SwigluOp& op) {
    encode_gated(device_, e.commands, DType::kF32, rows(e, op.out) * width(op.out), Activation::kSilu, buffer(op.gate),
                 buffer(op.up), buffer(op.out));
    written(e, op.out);
  }

  void run(Encoding& e, const AddOp& op) {
    encode_residual(device_, e.commands, DType::kF32, rows(e, op.x) * width(op.x), buffer(op.x), buffer(op.y));
    written(e, op.x);
  }

  void run(Encoding& e, const SelectOp& op) {
    encode_select_rows(device_, e.commands, DType::kF32, e.selected, width(op.in), buffer(op.in), *selected_,
                       buffer(op.out));
    written(e, op.out);
  }

  const MslModel& model_;
  const Plan& plan_;
  Device& device_;
  RunnerLimits limits_;
  DType cache_type_;
  std::optional<LinearWorkspace> workspace_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;  // of the plan
  std::size_t layer_bytes_ = 0;
  std::unique_ptr<DeviceBuffer> keys_;
  std::unique_ptr<DeviceBuffer> values_;
  std::unique_ptr<DeviceBuffer> tokens_;
  std::unique_ptr<DeviceBuffer> positions_;
  std::unique_ptr<DeviceBuffer> sequences_;
  std::unique_ptr<DeviceBuffer> selected_;
  std::unique_ptr<DeviceBuffer> tables_;
  std::vector<std::int32_t> host_positions_;
  std::vector<std::int32_t> host_sequences_;
  std::vector<float> logits_;
  std::map<std::pair<std::size_t, std::size_t>, std::unique_ptr<Commands>> encoded_;
};

std::unique_ptr<Runner> MslModel::make_runner(const RunnerLimits& limits, CacheType cache) const {
  return std::make_unique<MslRunner>(*this, limits, cache);
}

}  // namespace

std::shared_ptr<const PreparedModel> prepare(Plan plan, const Checkpoint& checkpoint, std::shared_ptr<Device> device,
                                             ThreadPool& pool, const PrepareOptions& options) {
  auto model = std::make_shared<MslModel>(std::move(plan), std::move(device), options.activations);
  model->load(checkpoint, pool, options.progress);
  return model;
}

}  // namespace metal_marlin::msl

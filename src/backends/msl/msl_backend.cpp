#include "backends/msl/msl_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "backends/msl/epilogue.h"
#include "backends/msl/experts.h"
#include "backends/msl/fuse.h"
#include "backends/msl/hadamard.h"
#include "backends/msl/latent_attention.h"
#include "backends/msl/moe_router.h"
#include "backends/msl/paged_attention.h"
#include "backends/msl/rope.h"
#include "backends/msl/shared_expert.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

using PlanBuffer = metal_marlin::Buffer;
using DeviceBuffer = msl::Buffer;

// Most parts that a query's keys are cut into, and keys of a part at least.
constexpr std::uint32_t kMostParts = 32;
constexpr std::uint32_t kPartKeys = 128;

// From here gate and up are multiplied in one pass over the activations; below, decode_gemv
// reads weights faster.
constexpr std::int64_t kFusedTokens = 33;

KvType kv_type(CacheType type) {
  switch (type) {
    case CacheType::kF16: return KvType::kF16;
    case CacheType::kF32: return KvType::kF32;
    case CacheType::kFp8: return KvType::kFp8;
    case CacheType::kInt8: return KvType::kInt8;
    case CacheType::kInt4: return KvType::kInt4;
    case CacheType::kFp4: return KvType::kFp4;
  }
  return KvType::kF16;
}

template <typename T>
const T* find_op(const Plan& plan) {
  for (const Op& op : plan.ops) {
    if (const T* const found = std::get_if<T>(&op)) return found;  // all of a kind have one shape
  }
  return nullptr;
}

class MslModel final : public PreparedModel {
 public:
  MslModel(Plan plan, std::shared_ptr<Device> device, Activations activations)
      : plan_(std::move(plan)), device_(std::move(device)), activations_(activations) {}

  void load(const Checkpoint& checkpoint, ThreadPool& pool, const LoadProgress& progress) {
    std::map<std::string, std::function<void()>> parts;  // by the last of the weights that they are made of
    for (const Op& op : plan_.ops) {
      if (const auto* const latent = std::get_if<LatentAttentionOp>(&op)) {
        parts[latent->expand] = [&, latent] {
          latents_[latent->layer] = std::make_unique<LatentAttention>(
              *device_, *latent, checkpoint.load(latent->expand, pool), activations_, pool);
        };
      } else if (const auto* const moe = std::get_if<MoeOp>(&op)) {
        for (std::int64_t i = 0; i < moe->experts; ++i) {
          for (const char* const projection : {"gate", "up", "down"}) parts[expert_weight(*moe, i, projection)] = {};
        }
        parts[expert_weight(*moe, moe->experts - 1, "down")] = [&, moe] { load_experts(*moe, checkpoint, pool); };
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
    frequencies_ = device_->allocate_with(plan_.rope_frequencies);
  }

  [[nodiscard]] std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t weight_bytes() const override {
    std::size_t bytes = 0;
    for (const auto& [name, matrix] : matrices_) bytes += matrix->bytes();
    for (const auto& [name, vector] : vectors_) bytes += vector->size();
    for (const auto& [layer, latent] : latents_) bytes += latent->bytes();
    for (const auto& [layer, experts] : experts_) bytes += experts->bytes();
    return bytes;
  }

  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] Device& device() const { return *device_; }
  [[nodiscard]] Activations activations() const { return activations_; }
  [[nodiscard]] const Linear& matrix(const std::string& name) const { return *matrices_.at(name); }
  [[nodiscard]] DeviceBuffer* vector(const std::string& name) const {
    return name.empty() ? nullptr : vectors_.at(name).get();
  }
  [[nodiscard]] const LatentAttention& latent(int layer) const { return *latents_.at(layer); }
  [[nodiscard]] const Experts& experts(int layer) const { return *experts_.at(layer); }
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

  void load_experts(const MoeOp& op, const Checkpoint& checkpoint, ThreadPool& pool) {
    const auto width = [&](BufferId id) { return plan_.buffers[static_cast<std::size_t>(id)].width; };
    experts_[op.layer] = std::make_unique<Experts>(
        *device_, op.prefix, op.experts, width(op.in), op.intermediate,
        [&](std::int64_t expert, const char* projection) {
          return checkpoint.load(expert_weight(op, expert, projection), pool);
        },
        pool);
  }

  Plan plan_;
  std::shared_ptr<Device> device_;
  Activations activations_;
  std::map<std::string, std::unique_ptr<Linear>> matrices_;
  std::map<int, std::unique_ptr<LatentAttention>> latents_;
  std::map<int, std::unique_ptr<Experts>> experts_;
  std::map<std::string, std::unique_ptr<DeviceBuffer>> vectors_;
  std::unique_ptr<DeviceBuffer> frequencies_;
};

class MslRunner final : public Runner {
 public:
  MslRunner(const MslModel& model, const RunnerLimits& limits, CacheType cache)
      : model_(model), plan_(model.plan()), device_(model.device()), limits_(limits), cache_type_(kv_type(cache)) {
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
    const CacheShape& shape = plan_.cache;
    const auto rows_of_layer =
        static_cast<std::size_t>(limits.pages) * static_cast<std::size_t>(shape.heads * kCachePageTokens);
    for (int layer = 0; layer < plan_.layers; ++layer) {  // each a buffer: devices limit how large one is
      keys_.push_back(device_.allocate(rows_of_layer * cache_row_bytes(cache_type_, shape.key_dim)));
      if (!shape.latent)
        values_.push_back(device_.allocate(rows_of_layer * cache_row_bytes(cache_type_, shape.value_dim)));
    }
    make_workspaces();
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
  void make_workspaces() {
    std::size_t partial = 1;
    const auto measure = [&](PagedParams p) {
      for (std::int64_t tokens = 1; tokens <= limits_.tokens; tokens *= 2) {
        p.parts = paged_parts(device_, p, DType::kF32, cache_type_, tokens, kMostParts);
        if (p.parts == 1) break;
        // Of up to twice as many tokens, which are cut into no more parts.
        partial = std::max(partial, paged_partial_bytes(p, std::min<std::int64_t>(2 * tokens, limits_.tokens)));
      }
    };
    if (const auto* const latent = find_op<LatentAttentionOp>(plan_)) {
      latent_workspace_.emplace(device_, *latent, limits_.tokens);
      measure(model_.latent(latent->layer).paged_params());
    }
    if (const auto* const attention = find_op<AttentionOp>(plan_)) measure(paged_params(*attention));
    partial_ = device_.allocate(partial);
    if (const auto* const moe = find_op<MoeOp>(plan_)) {
      experts_workspace_.emplace(device_, limits_.tokens, moe->top_k, moe->experts, width(moe->in), moe->intermediate);
      const auto assignments = static_cast<std::size_t>(limits_.tokens * moe->top_k);
      expert_ids_ = device_.allocate(assignments * sizeof(std::int32_t));
      expert_weights_ = device_.allocate(assignments * sizeof(float));
    }
  }

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
    for (const Step& step : fuse(plan_, fuse_options(encoding.tokens)))
      std::visit([&](const auto& s) { run(encoding, s); }, step);
    return commands;
  }

  [[nodiscard]] FuseOptions fuse_options(std::int64_t tokens) const {
    FuseOptions options;
    options.fuses = [this, tokens](const LinearOp& gate, const LinearOp& up) {
      return tokens >= kFusedTokens && model_.activations() != Activations::kF32 &&
             can_fuse_gate_up(model_.matrix(gate.weight), model_.matrix(up.weight));
    };
    options.prepares = [this](const LinearOp& linear) {
      return !linear.exact && model_.matrix(linear.weight).prepared_type(model_.activations()) != DType::kF32;
    };
    return options;
  }

  void run(Encoding& e, const Op* op) {
    std::visit([&](const auto& o) { run(e, o); }, *op);
  }

  void run(Encoding& e, const RopesStep& step) {
    if (step.q_norm == nullptr) return run_rope(e, *step.q, step.k, std::nullopt);
    run_rope(e, *step.q, step.k,
             HeadNorms{model_.vector(step.q_norm->weight), model_.vector(step.k_norm->weight), step.q_norm->eps});
  }

  void run(Encoding& e, const GateUpStep& step) {
    const Linear& gate = model_.matrix(step.gate->weight);
    const DType type = gate.prepared_type(model_.activations());
    GateUpCall call;
    call.x = e.ready == step.gate->in && e.ready_type == type ? nullptr : &buffer(step.gate->in);
    call.y = &buffer(step.product->out);
    call.tokens = rows(e, step.gate->in);
    encode_gate_up(device_, e.commands, gate, model_.matrix(step.up->weight), call, *workspace_);
    e.ready = step.gate->in;
    e.ready_type = type;
    written(e, step.product->out);
  }

  void run(Encoding& e, const AddedLinearStep& step) {
    LinearOp linear = *step.linear;
    linear.out = step.sum;
    run_linear(e, linear, true);
  }

  void run(Encoding& e, const PreparedStep& step) {
    const BufferId out = step.linear->in;
    if (rows(e, out) == 0) return;
    const DType type = model_.matrix(step.linear->weight).prepared_type(model_.activations());
    if (const auto* const norm = std::get_if<const RmsNormOp*>(&step.op)) {
      encode_prepare_norm(device_, e.commands, type, rows(e, out), (*norm)->width, (*norm)->eps, buffer((*norm)->in),
                          *model_.vector((*norm)->weight), buffer(out), *workspace_);
    } else {
      const SwigluOp& product = *std::get<const SwigluOp*>(step.op);
      encode_prepare_gated(device_, e.commands, type, rows(e, out), width(out), Activation::kSilu, buffer(product.gate),
                           buffer(product.up), buffer(out), *workspace_);
    }
    e.ready = out;
    e.ready_type = type;
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

  void run(Encoding& e, const LinearOp& op) { run_linear(e, op, false); }
  void run_linear(Encoding& e, const LinearOp& op, bool accumulate) {
    if (rows(e, op.in) == 0) return;
    const Linear& linear = model_.matrix(op.weight);
    const Activations mode = op.exact ? Activations::kF32 : model_.activations();
    const DType type = linear.prepared_type(mode);
    Linear::Call call;
    const bool ready = type != DType::kF32 && e.ready == op.in && e.ready_type == type;
    call.x = ready ? nullptr : &buffer(op.in);
    call.y = &buffer(op.out);
    call.tokens = rows(e, op.in);
    call.bias = model_.vector(op.bias);
    call.mode = mode;
    call.accumulate = accumulate;
    linear.encode(e.commands, call, *workspace_);
    if (type != DType::kF32) {
      e.ready = op.in;
      e.ready_type = type;
    }
    written(e, op.out);
  }

  void run(Encoding& e, const RopeOp& op) { run_rope(e, op, nullptr, std::nullopt); }
  // k: rotated in the same launch, or null.
  void run_rope(Encoding& e, const RopeOp& op, const RopeOp* k, const std::optional<HeadNorms>& norms) {
    RopeParams p;
    p.q_heads = static_cast<std::uint32_t>(op.heads);
    p.head_dim = p.rotary_dim = static_cast<std::uint32_t>(op.head_dim);
    p.q_stride = static_cast<std::uint32_t>(width(op.x));
    p.scale = plan_.rope_scale;
    if (k != nullptr) {
      p.k_heads = static_cast<std::uint32_t>(k->heads);
      p.k_stride = static_cast<std::uint32_t>(width(k->x));
      written(e, k->x);
    }
    DeviceBuffer* const keys = k != nullptr ? &buffer(k->x) : nullptr;
    if (norms) {
      encode_norm_rope(device_, e.commands, p, DType::kF32, e.tokens, buffer(op.x), keys, model_.frequencies(),
                       *positions_, *norms);
    } else {
      encode_rope(device_, e.commands, p, DType::kF32, e.tokens, buffer(op.x), keys, model_.frequencies(), *positions_);
    }
    written(e, op.x);
  }

  [[nodiscard]] PagedParams paged_params(const AttentionOp& op) const {
    PagedParams p;
    p.heads = static_cast<std::uint32_t>(op.heads);
    p.kv_heads = static_cast<std::uint32_t>(op.kv_heads);
    p.key_dim = p.value_dim = static_cast<std::uint32_t>(op.head_dim);
    p.table_stride = static_cast<std::uint32_t>(limits_.pages);
    p.q_stride = static_cast<std::uint32_t>(width(op.q));
    p.k_stride = static_cast<std::uint32_t>(width(op.k));
    p.v_stride = static_cast<std::uint32_t>(width(op.v));
    p.out_stride = static_cast<std::uint32_t>(width(op.out));
    p.window = static_cast<std::uint32_t>(op.window);
    p.scale = op.scale;
    p.part_keys = kPartKeys;
    p.rounded = model_.activations() == Activations::kF32 ? 0 : 1;
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
    PagedParams p = paged_params(op);
    p.parts = paged_parts(device_, p, DType::kF32, cache_type_, e.tokens, kMostParts);
    const PagedBuffers b = paged_buffers(op.layer);
    encode_store_kv(device_, e.commands, p, DType::kF32, cache_type_, e.tokens, buffer(op.k), buffer(op.v), b);
    encode_paged_attention(device_, e.commands, p, DType::kF32, cache_type_, e.tokens, buffer(op.q), buffer(op.out), b);
    written(e, op.out);
  }

  void run(Encoding& e, const LatentAttentionOp& op) {
    const LatentAttention& latent = model_.latent(op.layer);
    LatentCall call;
    call.q = &buffer(op.q);
    call.latent = &buffer(op.latent);
    call.out = &buffer(op.out);
    call.tokens = e.tokens;
    call.norm = model_.vector(op.norm);
    call.frequencies = &model_.frequencies();
    call.rope_scale = plan_.rope_scale;
    call.cache = cache_type_;
    call.paged = paged_buffers(op.layer);
    call.table_stride = static_cast<std::uint32_t>(limits_.pages);
    call.parts = paged_parts(device_, latent.paged_params(), DType::kF32, cache_type_, e.tokens, kMostParts);
    call.part_keys = kPartKeys;
    latent.encode(e.commands, call, *latent_workspace_);
    written(e, op.out);
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
    encode_moe_router(device_, e.commands, router, e.tokens, buffer(op.logits), model_.vector(op.correction),
                      *expert_ids_, *expert_weights_);
    ExpertsCall call;
    call.x = &buffer(op.in);
    call.ids = expert_ids_.get();
    call.weights = expert_weights_.get();
    call.y = &buffer(op.out);
    call.tokens = e.tokens;
    call.chosen = op.top_k;
    call.mode = model_.activations();
    call.down_rotation = static_cast<std::uint32_t>(op.down_rotation);
    model_.experts(op.layer).encode(e.commands, call, *experts_workspace_);
    written(e, op.out);
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

  void run(Encoding& e, const HadamardOp& op) {
    encode_hadamard(device_, e.commands, DType::kF32, rows(e, op.in), width(op.in),
                    static_cast<std::uint32_t>(op.block), HadamardDirection::kForward, buffer(op.in), buffer(op.out));
    written(e, op.out);
  }

  void run(Encoding& e, const SelectOp& op) {
    encode_select_rows(device_, e.commands, DType::kF32, e.selected, width(op.in), buffer(op.in), *selected_,
                       buffer(op.out));
    written(e, op.out);
  }

  [[noreturn]] static void refuse(const Op& op) {
    throw Error(ErrorCode::kUnsupported, "the msl backend has no kernel for: " + describe(op));
  }
  static void run(Encoding&, const InputOp& op) { refuse(op); }
  static void run(Encoding&, const ObserveOp& op) { refuse(op); }

  const MslModel& model_;
  const Plan& plan_;
  Device& device_;
  RunnerLimits limits_;
  KvType cache_type_;
  std::optional<LinearWorkspace> workspace_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;  // of the plan
  std::optional<LatentWorkspace> latent_workspace_;
  std::optional<ExpertsWorkspace> experts_workspace_;
  std::unique_ptr<DeviceBuffer> expert_ids_;
  std::unique_ptr<DeviceBuffer> expert_weights_;
  std::unique_ptr<DeviceBuffer> partial_;
  std::vector<std::unique_ptr<DeviceBuffer>> keys_;    // of each layer
  std::vector<std::unique_ptr<DeviceBuffer>> values_;  // likewise; none where latent
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

std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint,
                                             std::shared_ptr<Device> device, ThreadPool& pool,
                                             const PrepareOptions& options) {
  auto model = std::make_shared<MslModel>(with_rotations(plan, checkpoint), std::move(device), options.activations);
  model->load(checkpoint, pool, options.progress);
  return model;
}

}  // namespace metal_marlin::msl

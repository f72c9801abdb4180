#include "backends/msl/step_encoder.h"

#include <algorithm>

#include "backends/msl/epilogue.h"
#include "backends/msl/hadamard.h"
#include "backends/msl/moe_router.h"
#include "backends/msl/rope.h"
#include "backends/msl/shared_expert.h"
#include "ops/fuse.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kSplitKeys = 128;  // of a split, at least

// From here gate and up are multiplied in one pass over the activations; below, decode_gemv
// reads weights faster.
constexpr std::int64_t kFusedTokens = 33;

class StepEncoder {
 public:
  StepEncoder(const MslModel& model, const Plan& plan, Device& device, StepBuffers& buffers, Commands& commands,
              const StepShape& shape)
      : model_(model), plan_(plan), device_(device), buffers_(buffers), commands_(commands), shape_(shape) {}

  void encode() {
    for (const FusedStep& step : fuse(plan_, fusion())) {
      layer_ = step.layer();
      std::visit([&](const auto& form) { run(step, form); }, step.form);
    }
  }

 private:
  [[nodiscard]] FuseCapabilities fusion() const {
    FuseCapabilities out = kFusion;
    out.gate_up = [this](const LinearOp& gate, const LinearOp& up, const GatedOp& product) {
      if (low_rank(gate.weight) != nullptr || low_rank(up.weight) != nullptr) return false;
      return product.activation == GateActivation::kSilu && shape_.tokens >= kFusedTokens &&
             model_.activations() != Activations::kF32 && gate.bias.empty() && up.bias.empty() &&
             can_fuse_gate_up(model_.matrix(gate.weight), model_.matrix(up.weight));
    };
    out.prepares = [this](const LinearOp& linear) {
      return !linear.exact && model_.matrix(linear.weight).prepared_type(model_.activations()) != DType::kF32;
    };
    return out;
  }

  void run(const FusedStep& step, const SingleOp& form) {
    if (form.reader != nullptr && !is_layer_norm(step.ops.front())) return run_prepared(step.ops.front(), *form.reader);
    std::visit([&](const auto& op) { run(op); }, step.ops.front().body);
    written(step);
  }

  void run(const FusedStep& step, const FusedHeads& form) {
    std::optional<HeadNorms> norms;
    if (form.q_norm != nullptr)
      norms = HeadNorms{&model_.norm_weight(*form.q_norm), &model_.norm_weight(*form.k_norm), form.q_norm->eps};
    run_rope(*form.q_rope, form.k_rope, norms);
    written(step);
  }

  void run(const FusedStep& step, const FusedLinears& form) {
    const LinearOp& linear = *form.linears.front();
    if (form.product != nullptr) {
      run_gate_up(form);
    } else if (form.sum != nullptr) {
      run_linear(linear, form.sum->x, true);
    } else {
      run_linear(linear, linear.out, false);
    }
    written(step);
  }

  void run_gate_up(const FusedLinears& form) {
    const BufferId in = form.linears[0]->in;
    const Linear& gate = model_.matrix(form.linears[0]->weight);
    const DType type = gate.prepared_type(model_.activations());
    GateUpCall call;
    call.x = ready_ == in && ready_type_ == type ? nullptr : &buffer(in);
    call.y = &buffer(form.product->out);
    call.tokens = rows(in);
    encode_gate_up(device_, commands_, gate, model_.matrix(form.linears[1]->weight), call, *buffers_.linear);
    ready_ = in;
    ready_type_ = type;
  }

  // Which no kernel makes and prepares at once.
  static bool is_layer_norm(const Op& op) {
    const auto* const norm = op.as<NormOp>();
    return norm != nullptr && norm->kind == NormKind::kLayer;
  }

  // A norm or a gated product whose result is prepared for `reader` too.
  void run_prepared(const Op& op, const LinearOp& reader) {
    const BufferId out = reader.in;
    if (rows(out) == 0) return;
    const DType type = model_.matrix(reader.weight).prepared_type(model_.activations());
    if (const auto* const norm = op.as<NormOp>()) {
      encode_prepare_norm(device_, commands_, type, rows(out), norm->width, norm->eps, buffer(norm->in),
                          model_.norm_weight(*norm), buffer(out), *buffers_.linear);
    } else {
      const auto& product = std::get<GatedOp>(op.body);
      encode_prepare_gated(device_, commands_, type, rows(out), width(out),
                           gate_params(product.activation, product.clamp), buffer(product.gate), buffer(product.up),
                           buffer(out), *buffers_.linear);
    }
    ready_ = out;
    ready_type_ = type;
  }

  // What was prepared of a buffer that has been written since is of no use.
  void written(const FusedStep& step) {
    for (const Op& op : step.ops) {
      for (const BufferId id : written_buffers(op)) ready_ = ready_ == id ? -1 : ready_;
    }
  }

  void run(const EmbeddingOp& op) {
    model_.matrix(op.weight).encode_rows(commands_, shape_.tokens, *buffers_.tokens, buffer(op.out));
    const LowRankStack* const added = model_.embedding_low_rank(op.weight);
    if (shape_.adapted && added != nullptr)
      added->encode_rows(device_, commands_, low_rank_call(op.out, *buffers_.tokens, buffer(op.out)));
  }

  void run(const NormOp& op) {
    const auto encode = op.kind == NormKind::kLayer ? encode_layer_norm : encode_rms_norm;
    encode(device_, commands_, DType::kF32, rows(op.in) * width(op.in) / op.width, op.width, op.eps, buffer(op.in),
           model_.norm_weight(op), buffer(op.out));
  }

  void run_linear(const LinearOp& op, BufferId out, bool accumulate) {
    if (rows(op.in) == 0) return;
    const Linear& linear = model_.matrix(op.weight);
    const Activations mode = op.exact ? Activations::kF32 : model_.activations();
    const DType type = linear.prepared_type(mode);
    Linear::Call call;
    const bool ready = type != DType::kF32 && ready_ == op.in && ready_type_ == type;
    call.x = ready ? nullptr : &buffer(op.in);
    call.y = &buffer(out);
    call.tokens = rows(op.in);
    call.bias = model_.vector(op.bias);
    call.mode = mode;
    call.accumulate = accumulate;
    linear.encode(commands_, call, *buffers_.linear);
    if (const LowRankStack* const more = low_rank(op.weight))
      more->encode(device_, commands_, low_rank_call(op.in, buffer(op.in), buffer(out)));
    if (type == DType::kF32) return;
    ready_ = op.in;
    ready_type_ = type;
  }

  // What adapters of this step's rows add to a product; null: nothing.
  [[nodiscard]] const LowRankStack* low_rank(const std::string& weight) const {
    return shape_.adapted ? model_.low_rank(weight) : nullptr;
  }
  [[nodiscard]] LowRankStack::Call low_rank_call(BufferId like, Buffer& in, Buffer& out) const {
    const bool selected = plan_.buffers[static_cast<std::size_t>(like)].selected;
    return {rows(like), (selected ? buffers_.selected_adapters : buffers_.token_adapters).get(), &in, &out,
            buffers_.low_rank_inner.get()};
  }

  // k: rotated in the same launch, or null.
  void run_rope(const RopeOp& op, const RopeOp* k, const std::optional<HeadNorms>& norms) {
    RopeParams p;
    p.q_heads = static_cast<std::uint32_t>(op.heads);
    const RopeTable& table = plan_.ropes[static_cast<std::size_t>(op.rope)];
    p.head_dim = static_cast<std::uint32_t>(op.head_dim);
    p.rotary_dim = static_cast<std::uint32_t>(2 * table.frequencies.size());
    p.interleaved = op.interleaved ? 1 : 0;
    p.q_stride = static_cast<std::uint32_t>(width(op.x));
    p.scale = table.scale;
    if (k != nullptr) {
      p.k_heads = static_cast<std::uint32_t>(k->heads);
      p.k_stride = static_cast<std::uint32_t>(width(k->x));
    }
    Buffer* const keys = k != nullptr ? &buffer(k->x) : nullptr;
    if (norms) {
      encode_norm_rope(device_, commands_, p, DType::kF32, shape_.tokens, buffer(op.x), keys, frequencies(op.rope),
                       *buffers_.positions, *norms);
    } else {
      encode_rope(device_, commands_, p, DType::kF32, shape_.tokens, buffer(op.x), keys, frequencies(op.rope),
                  *buffers_.positions);
    }
  }

  [[nodiscard]] PagedBuffers paged_buffers(int layer) const {
    PagedBuffers b;
    b.keys = buffers_.keys[static_cast<std::size_t>(layer)].get();
    b.values = buffers_.values[static_cast<std::size_t>(layer)].get();
    b.tables = buffers_.tables.get();
    b.sequences = buffers_.sequences.get();
    b.positions = buffers_.positions.get();
    b.partial = buffers_.partial.get();
    return b;
  }

  void run(const AttentionOp& op) {
    const PagedParams p = paged_params(model_, device_, buffers_, op, shape_.tokens);
    PagedBuffers b = paged_buffers(op.source >= 0 ? op.source : layer_);
    b.sinks = model_.vector(op.sinks);
    if (op.source < 0)
      encode_store_kv(device_, commands_, p, DType::kF32, buffers_.cache, shape_.tokens, buffer(op.k), buffer(op.v), b);
    if (shape_.tiled && has_tiles(device_, p, buffers_.cache)) {
      encode_paged_tiles(device_, commands_, p, buffers_.cache, shape_.tokens, buffer(op.q), buffer(op.out), b,
                         {buffers_.table_rows, buffers_.q_starts.get(), buffers_.k_starts.get()});
    } else {
      encode_paged_attention(device_, commands_, p, DType::kF32, buffers_.cache, shape_.tokens, buffer(op.q),
                             buffer(op.out), b);
    }
  }

  void run(const LatentAttentionOp& op) {
    const LatentAttention& latent = model_.latent(layer_);
    LatentCall call;
    call.q = &buffer(op.q);
    call.latent = &buffer(op.latent);
    call.out = &buffer(op.out);
    call.tokens = shape_.tokens;
    call.norm = model_.vector(op.norm);
    call.frequencies = &frequencies(op.rope);
    call.rope_scale = plan_.ropes[static_cast<std::size_t>(op.rope)].scale;
    call.cache = buffers_.cache;
    call.paged = paged_buffers(layer_);
    call.table_stride = static_cast<std::uint32_t>(buffers_.table_stride);
    call.splits =
        paged_splits(device_, latent_paged_params(op), DType::kF32, buffers_.cache, shape_.tokens, kMostSplits);
    call.split_keys = kSplitKeys;
    latent.encode(commands_, call, *buffers_.latent);
  }

  void run(const MoeOp& op) {
    RouterOptions router;
    router.experts = static_cast<std::uint32_t>(op.experts);
    router.chosen = static_cast<std::uint32_t>(op.top_k);
    router.groups = static_cast<std::uint32_t>(op.groups);
    router.group_limit = static_cast<std::uint32_t>(op.top_groups);
    router.group_best = static_cast<std::uint32_t>(op.group_best);
    router.sigmoid = op.scoring == RouterScoring::kSigmoid;
    router.normalize = op.normalize;
    router.scale = op.scale;
    encode_moe_router(device_, commands_, router, shape_.tokens, buffer(op.logits),
                      {model_.vector(op.router_bias), model_.vector(op.expert_scales)},
                      *buffers_.expert_ids.at(layer_).ids, *buffers_.expert_weights);
    ExpertsCall call;
    call.x = &buffer(op.in);
    call.ids = buffers_.expert_ids.at(layer_).ids.get();
    call.weights = buffers_.expert_weights.get();
    call.y = &buffer(op.out);
    call.tokens = shape_.tokens;
    call.chosen = op.top_k;
    call.mode = model_.activations();
    call.down_rotation = static_cast<std::uint32_t>(op.down_rotation);
    call.gate = gate_params(op.activation, op.clamp);
    model_.experts(layer_).encode(commands_, call, *buffers_.experts);
  }

  void run(const GatedOp& op) {
    encode_gated(device_, commands_, DType::kF32, rows(op.out) * width(op.out), gate_params(op.activation, op.clamp),
                 buffer(op.gate), buffer(op.up), buffer(op.out));
  }

  void run(const ScaleOp& op) {
    encode_scale(device_, commands_, DType::kF32, rows(op.x) * width(op.x), op.factor * model_.scalar(op.weight),
                 op.soft_cap, buffer(op.x));
  }

  void run(const PositionScaleOp& op) {
    encode_scale_by_position(device_, commands_, DType::kF32, shape_.tokens, width(op.x), op.beta, op.span,
                             *buffers_.positions, buffer(op.x));
  }

  void run(const AddOp& op) {
    if (op.gate >= 0)
      return encode_shared_add(device_, commands_, rows(op.x), width(op.x), buffer(op.y), &buffer(op.gate),
                               buffer(op.x));
    encode_residual(device_, commands_, DType::kF32, rows(op.x) * width(op.x), buffer(op.x), buffer(op.y));
  }

  void run(const HadamardOp& op) {
    encode_hadamard(device_, commands_, DType::kF32, rows(op.in), width(op.in), static_cast<std::uint32_t>(op.block),
                    HadamardDirection::kForward, buffer(op.in), buffer(op.out));
  }

  void run(const SelectOp& op) {
    encode_select_rows(device_, commands_, DType::kF32, shape_.selected, width(op.in), buffer(op.in),
                       *buffers_.selected, buffer(op.out));
  }

  void run(const JoinOp& op) {
    encode_join_rows(device_, commands_, DType::kF32, rows(op.out), width(op.first), width(op.second), buffer(op.first),
                     buffer(op.second), buffer(op.out));
  }

  void run(const SliceOp& op) {
    const StepBuffers::Sliced& sliced = buffers_.sliced[sliced_++];
    encode_select_rows(device_, commands_, DType::kF32, rows(op.out) * width(op.out) / sliced.piece, sliced.piece,
                       buffer(op.in), *sliced.pieces, buffer(op.out));
  }

  void run(const ObserveOp& op) {
    encode_select_rows(device_, commands_, DType::kF32, rows(op.in), width(op.in), buffer(op.in), *buffers_.all_rows,
                       *buffers_.observed[observed_++].rows);
  }

  void run(const LinearOp& op) { run_linear(op, op.out, false); }
  void run(const RopeOp& op) { run_rope(op, nullptr, std::nullopt); }
  static void run(const InputOp&) {}  // uploaded with the batch

  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.width(id); }
  [[nodiscard]] Buffer& buffer(BufferId id) const { return *buffers_.plan[static_cast<std::size_t>(id)]; }
  [[nodiscard]] Buffer& frequencies(int rope) const { return *buffers_.frequencies[static_cast<std::size_t>(rope)]; }
  [[nodiscard]] std::int64_t rows(BufferId id) const {
    return plan_.buffers[static_cast<std::size_t>(id)].selected ? shape_.selected : shape_.tokens;
  }

  const MslModel& model_;
  const Plan& plan_;
  Device& device_;
  StepBuffers& buffers_;
  Commands& commands_;
  StepShape shape_;
  int layer_ = -1;  // of the op
  // The buffer whose activations the workspace holds prepared, and as what.
  BufferId ready_ = -1;
  DType ready_type_ = DType::kF32;
  std::size_t observed_ = 0;  // ObserveOps so far
  std::size_t sliced_ = 0;    // SliceOps so far
};

}  // namespace

PagedParams paged_params(const MslModel& model, Device& device, const StepBuffers& buffers, const AttentionOp& op,
                         std::int64_t tokens) {
  const Plan& plan = model.plan();
  PagedParams p;
  p.heads = static_cast<std::uint32_t>(op.heads);
  p.kv_heads = static_cast<std::uint32_t>(op.kv_heads);
  p.key_dim = p.value_dim = static_cast<std::uint32_t>(op.head_dim);
  p.table_stride = static_cast<std::uint32_t>(buffers.table_stride);
  p.q_stride = static_cast<std::uint32_t>(plan.width(op.q));
  p.k_stride = static_cast<std::uint32_t>(plan.width(op.k));
  p.v_stride = static_cast<std::uint32_t>(plan.width(op.v));
  p.out_stride = static_cast<std::uint32_t>(plan.width(op.out));
  p.window = static_cast<std::uint32_t>(op.window);
  p.scale = op.scale;
  p.soft_cap = op.soft_cap;
  p.split_keys = kSplitKeys;
  p.rounded = model.activations() == Activations::kF32 ? 0 : 1;
  p.splits = paged_splits(device, p, DType::kF32, buffers.cache, tokens, kMostSplits);
  return p;
}

void encode_step(const MslModel& model, const Plan& plan, Device& device, StepBuffers& buffers, Commands& commands,
                 const StepShape& shape) {
  StepEncoder(model, plan, device, buffers, commands, shape).encode();
}

}  // namespace metal_marlin::msl

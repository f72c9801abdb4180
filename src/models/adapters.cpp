#include "models/adapters.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "formats/hadamard.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kWeightEnd = ".weight";

// Modules whose outputs are those of several layers, one after the other (io/split_checkpoint.h).
const std::vector<std::pair<std::string, std::vector<std::string>>> kTogether{
    {"qkv_proj", {"q_proj", "k_proj", "v_proj"}}, {"gate_up_proj", {"gate_proj", "up_proj"}}};

// A layer's values are rotated by the weights before its output projection, which says so in our own folders.
int folded_rotation(const Checkpoint& checkpoint, const std::string& weight) {
  const Json& config = checkpoint.config();
  const std::string module = weight.substr(0, weight.size() - kWeightEnd.size());
  const Json::json_pointer tensors("/quantization_config/tensors");
  if (!config.contains(tensors) || !config.at(tensors).contains(module)) return 0;
  return config.at(tensors).at(module).value("folded_rotation", 0);
}

class Binder {
 public:
  Binder(const PeftAdapter& from, double scale, const Plan& plan, const Checkpoint& checkpoint, ThreadPool& pool)
      : from_(from), scale_(scale), plan_(plan), checkpoint_(checkpoint), pool_(pool) {
    for (const Op& op : plan.ops) {
      if (const auto* const linear = op.as<LinearOp>()) {
        linears_[linear->role.part == ModelPart::kHead ? kHeadWeight : linear->weight] = {linear, op.layer};
      } else if (const auto* const embedding = op.as<EmbeddingOp>()) {
        embeddings_[embedding->weight] = embedding;
      }
    }
    for (const PlannedWeight& weight : planned_weights(plan)) weights_.insert(weight.name);
  }

  Adapter bind(const std::string& name) {
    Adapter out;
    out.name = name;
    for (const auto& [module, pair] : from_.linears()) {
      const std::vector<const Linear*> linears = linears_of(module);
      std::int64_t outputs = 0;
      for (const Linear* const linear : linears) outputs += plan_.width(linear->op->out);
      const LowRank whole = low_rank(module, pair, plan_.width(linears.front()->op->in), outputs);
      auto rows = whole.b.begin();
      for (const Linear* const linear : linears) {
        const auto end = rows + plan_.width(linear->op->out) * whole.rank;
        LowRank bound{whole.rank, whole.scale, whole.a, {rows, end}};
        rows = end;
        rotate(bound, *linear);
        if (!out.linears.emplace(linear->op->weight, std::move(bound)).second)
          throw Error(ErrorCode::kCorruptFile, where(module) + ": another module of the adapter is a part of it");
      }
    }
    for (const auto& [module, pair] : from_.embeddings()) {
      const auto op = embeddings_.find(full_name(module + std::string(kWeightEnd)));
      if (op == embeddings_.end()) refuse(module);
      out.embeddings.emplace(op->first, embedding(module, pair, *op->second));
    }
    for (const auto& [weight, view] : from_.base_weights()) require_same(weight, *view);
    return out;
  }

 private:
  struct Linear {
    const LinearOp* op;
    int layer;
  };

  [[nodiscard]] std::string where(const std::string& module) const {
    return fmt::format("{}: module {}", from_.file().string(), module);
  }
  [[noreturn]] void refuse(const std::string& module) const {
    const std::string weight = full_name(module + std::string(kWeightEnd));
    if (weights_.contains(weight)) {
      throw Error(ErrorCode::kUnsupported,
                  where(module) +
                      ": adapters of experts, of norms and of latent attention's expansion are not done, "
                      "only those of linear layers and of embeddings");
    }
    throw Error(ErrorCode::kNotFound, where(module) + ": the model has no such module");
  }

  // The layers that give a module's outputs, in their order.
  [[nodiscard]] std::vector<const Linear*> linears_of(const std::string& module) const {
    const auto found = linears_.find(full_name(module + std::string(kWeightEnd)));
    if (found != linears_.end()) return {&found->second};
    for (const auto& [together, parts] : kTogether) {
      if (!module.ends_with("." + together)) continue;
      const std::string before = module.substr(0, module.size() - together.size());
      std::vector<const Linear*> out;
      for (const std::string& part : parts) {
        const auto linear = linears_.find(full_name(before + part + std::string(kWeightEnd)));
        if (linear == linears_.end()) refuse(module);
        out.push_back(&linear->second);
      }
      return out;
    }
    refuse(module);
  }

  [[nodiscard]] LowRank low_rank(const std::string& module, const PeftModule& pair, std::int64_t in,
                                 std::int64_t out) const {
    if (pair.a->shape[1] != in || pair.b->shape[0] != out) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: lora_A is {} and lora_B is {}, the model has {} inputs and {} outputs there",
                              where(module), shape_text(pair.a->shape), shape_text(pair.b->shape), in, out));
    }
    const auto scale = static_cast<float>(pair.scale * scale_);
    if (!std::isfinite(scale)) throw Error(ErrorCode::kInvalidArgument, where(module) + ": its scale is too large");
    return {pair.rank, scale, adapter_elements(*pair.a, where(module) + ", lora_A"),
            adapter_elements(*pair.b, where(module) + ", lora_B")};
  }

  [[nodiscard]] LowRank embedding(const std::string& module, const PeftModule& pair, const EmbeddingOp& op) const {
    LowRank out = low_rank(module, pair, op.vocab, plan_.width(op.out));
    const auto rank = static_cast<std::size_t>(out.rank);
    const auto vocab = static_cast<std::size_t>(op.vocab);
    std::vector<float> rows(out.a.size());
    for (std::size_t r = 0; r < rank; ++r) {
      for (std::size_t token = 0; token < vocab; ++token) rows[token * rank + r] = out.a[r * vocab + token];
    }
    out.a = std::move(rows);
    return out;
  }

  // Inputs that come rotated meet an `a` that is rotated alike; outputs that are to be rotated come from such a `b`.
  void rotate(LowRank& pair, const Linear& linear) const {
    const LinearOp& op = *linear.op;
    const WeightInfo* const info = checkpoint_.find(op.weight);
    int block = info != nullptr && info->packed ? info->packed->rotation : 0;
    const bool of_attention = op.role.part == ModelPart::kAttention;
    if (of_attention && op.role.projection == Projection::kOutput && block == 0)
      block = folded_rotation(checkpoint_, op.weight);
    if (block != 0) {
      const std::int64_t in = plan_.width(op.in);
      for (std::int64_t r = 0; r < pair.rank; ++r) rotate_blocks(pair.a.data() + r * in, in, block);
    }
    if (!of_attention || op.role.projection != Projection::kValue) return;
    for (const auto& [weight, other] : linears_) {
      if (other.layer != linear.layer || other.op->role != Role{ModelPart::kAttention, Projection::kOutput}) continue;
      if (const int folded = folded_rotation(checkpoint_, weight); folded != 0)
        rotate_row_blocks(pair.b.data(), plan_.width(op.out), pair.rank, folded);
    }
  }

  // What was trained of the model itself would be lost.
  void require_same(const std::string& name, const DenseView& view) const {
    const std::string weight = full_name(name);
    const WeightInfo* const info = checkpoint_.find(weight);
    const std::string place = fmt::format("{}: tensor of {}", from_.file().string(), name);
    if (info == nullptr || info->packed || info->shape != view.shape) {
      throw Error(ErrorCode::kUnsupported,
                  place +
                      " is a whole weight of the model, which cannot be compared with the one that there is; save "
                      "the adapter with save_embedding_layers=False");
    }
    const Weight own = checkpoint_.load(weight, pool_);
    const std::int64_t cols = view.shape[1];
    std::vector<float> mine(static_cast<std::size_t>(cols));
    std::vector<float> theirs(mine.size());
    for (std::int64_t row = 0; row < view.shape[0]; ++row) {
      own.decode_row(row, cols, mine.data());
      convert_to_f32(view.dtype, view.bytes, static_cast<std::size_t>(row * cols), mine.size(), theirs.data());
      if (mine != theirs) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{} differs from the model's in row {}: modules that were trained whole are not done",
                                place, row));
      }
    }
  }

  const PeftAdapter& from_;
  double scale_;
  const Plan& plan_;
  const Checkpoint& checkpoint_;
  ThreadPool& pool_;
  std::map<std::string, Linear> linears_;  // by what PEFT calls their weights
  std::map<std::string, const EmbeddingOp*> embeddings_;
  std::set<std::string> weights_;
};

}  // namespace

Adapter bind_adapter(const PeftAdapter& from, const std::string& name, double scale, const Plan& plan,
                     const Checkpoint& checkpoint, ThreadPool& pool) {
  return Binder(from, scale, plan, checkpoint, pool).bind(name);
}

}  // namespace metal_marlin

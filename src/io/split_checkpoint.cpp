#include "io/split_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kQkv = ".self_attn.qkv_proj.";
constexpr std::string_view kGateUp = ".gate_up_proj.";
constexpr std::string_view kOfExperts = ".experts.";

struct TensorPart {
  std::string name;
  std::string tensor;  // that it is a part of
  std::int64_t first = 0;
  std::int64_t rows = 0;
};

class PartNames {
 public:
  explicit PartNames(const Checkpoint& whole) : whole_(whole) {}

  // What a weight is made of; nothing where it is one.
  [[nodiscard]] std::vector<TensorPart> of(const WeightInfo& info) const {
    if (info.shape.empty()) return {};
    const std::int64_t rows = info.shape.front();
    if (const std::size_t at = info.name.find(kQkv); at != std::string::npos) {
      // Attention gives as much as it has queries.
      const WeightInfo* const output = whole_.find(info.name.substr(0, at) + ".self_attn.o_proj.weight");
      if (output == nullptr || output->shape.size() != 2) return {};
      const std::int64_t queries = output->shape[1];
      if (rows <= queries || (rows - queries) % 2 != 0)
        fail(info, fmt::format("{} of queries and twice as many of keys as of values", queries));
      const std::int64_t keys = (rows - queries) / 2;
      const auto named = [&](const char* to) {
        return replaced(info.name, at, kQkv, fmt::format(".self_attn.{}.", to));
      };
      return {{named("q_proj"), info.name, 0, queries},
              {named("k_proj"), info.name, queries, keys},
              {named("v_proj"), info.name, queries + keys, keys}};
    }
    if (const std::size_t at = info.name.find(kGateUp); at != std::string::npos && !is_of_all_experts(info.name, at)) {
      if (rows == 0 || rows % 2 != 0) fail(info, "as many of gate_proj as of up_proj");
      return {{replaced(info.name, at, kGateUp, ".gate_proj."), info.name, 0, rows / 2},
              {replaced(info.name, at, kGateUp, ".up_proj."), info.name, rows / 2, rows / 2}};
    }
    return {};
  }

 private:
  // A tensor of all experts has no expert's number before the projection.
  static bool is_of_all_experts(const std::string& name, std::size_t projection) {
    return name.substr(0, projection + 1).ends_with(kOfExperts);
  }
  static std::string replaced(std::string name, std::size_t at, std::string_view what, const std::string& by) {
    return name.replace(at, what.size(), by);
  }
  [[noreturn]] void fail(const WeightInfo& info, const std::string& expected) const {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: shape {}, expected rows {}", whole_.where(info.name),
                            whole_.name_in_file(info.name), shape_text(info.shape), expected));
  }

  const Checkpoint& whole_;
};

class SplitCheckpoint final : public Checkpoint {
 public:
  // weights: of parts and of what is stored as it is, in order of name.
  SplitCheckpoint(std::unique_ptr<Checkpoint> whole, std::map<std::string, TensorPart> parts,
                  std::vector<WeightInfo> weights)
      : whole_(std::move(whole)), parts_(std::move(parts)), weights_(std::move(weights)) {}

  [[nodiscard]] const Json& config() const override { return whole_->config(); }
  [[nodiscard]] const Json& generation_config() const override { return whole_->generation_config(); }
  [[nodiscard]] std::string where() const override { return whole_->where(); }
  [[nodiscard]] std::string where(const std::string& name) const override { return whole_->where(stored(name)); }
  [[nodiscard]] std::string name_in_file(const std::string& name) const override {
    return whole_->name_in_file(stored(name));
  }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  void release() const override { whole_->release(); }
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return whole_->tokenizer_files();
  }
  [[nodiscard]] std::string kind() const override { return whole_->kind(); }

 private:
  [[nodiscard]] std::string stored(const std::string& name) const {
    const auto part = parts_.find(name);
    return part == parts_.end() ? name : part->second.tensor;
  }
  [[nodiscard]] Weight read(const std::string& name, ThreadPool& pool) const override {
    const auto part = parts_.find(name);
    if (part == parts_.end()) return whole_->load(name, pool);
    return whole_->load(part->second.tensor, pool).rows(part->second.first, part->second.rows);
  }

  std::unique_ptr<Checkpoint> whole_;
  std::map<std::string, TensorPart> parts_;  // by name
  std::vector<WeightInfo> weights_;
};

}  // namespace

std::unique_ptr<Checkpoint> split_projections(std::unique_ptr<Checkpoint> checkpoint) {
  std::map<std::string, TensorPart> parts;
  std::vector<WeightInfo> weights;
  const PartNames names(*checkpoint);
  for (const WeightInfo& info : checkpoint->weights()) {
    const std::vector<TensorPart> found = names.of(info);
    if (found.empty()) weights.push_back(info);
    for (const TensorPart& part : found) {
      WeightInfo of_part = info;
      of_part.name = part.name;
      of_part.shape.front() = part.rows;
      of_part.bytes = info.bytes / static_cast<std::size_t>(info.shape.front()) * static_cast<std::size_t>(part.rows);
      if (checkpoint->find(part.name) != nullptr)
        throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {} is a part of {} too, expected one of them",
                                                         checkpoint->where(part.name), part.name, part.tensor));
      weights.push_back(std::move(of_part));
      parts.emplace(part.name, part);
    }
  }
  if (parts.empty()) return checkpoint;
  std::sort(weights.begin(), weights.end(), [](const WeightInfo& a, const WeightInfo& b) { return a.name < b.name; });
  return std::make_unique<SplitCheckpoint>(std::move(checkpoint), std::move(parts), std::move(weights));
}

}  // namespace metal_marlin

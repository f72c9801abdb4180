#include "quantize/layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "backends/router.h"
#include "base/finite.h"
#include "base/thread_pool.h"
#include "metal_marlin/error.h"
#include "runtime/divergence.h"

namespace metal_marlin {
namespace {

constexpr int kStep = 512;  // tokens
// What the observer is shown of a mixture of experts.
constexpr const char* kExpertInputs = "inputs of experts";
constexpr const char* kRouterLogits = "router logits";

// The ops of one layer, as of the only one: keys and values of another come to it by their buffers, and are its own.
std::vector<Op> ops_of_layer(const Plan& plan, int wanted) {
  std::vector<Op> out;
  for (const Op& op : plan.ops) {
    if (op.layer != wanted) continue;
    out.push_back(op);
    out.back().layer = 0;
    if (auto* const attention = out.back().as<AttentionOp>()) attention->source = -1;
  }
  return out;
}

// What the cache of such a layer holds.
std::vector<CacheShape> caches_of_layer(const Plan& plan, int wanted) {
  int source = wanted;
  for (const Op& op : plan.ops) {
    const auto* const attention = op.as<AttentionOp>();
    if (op.layer == wanted && attention != nullptr && attention->source >= 0) source = attention->source;
  }
  return {plan.caches[static_cast<std::size_t>(source)]};
}

// The checkpoint with some weights replaced, of which no more is in memory than was loaded last.
class Overlay final : public Checkpoint {
 public:
  Overlay(const Checkpoint& below, const ReplacedWeights* replaced) : below_(below), replaced_(replaced) {
    if (replaced == nullptr) return;
    infos_ = below.weights();
    for (WeightInfo& info : infos_) {
      const auto found = replaced->specs.find(info.name);
      if (found != replaced->specs.end()) info.packed = found->second;
    }
  }
  [[nodiscard]] const Json& config() const override { return below_.config(); }
  [[nodiscard]] const Json& generation_config() const override { return below_.generation_config(); }
  [[nodiscard]] std::string where() const override { return below_.where(); }
  [[nodiscard]] std::string where(const std::string& name) const override { return below_.where(name); }
  [[nodiscard]] std::string name_in_file(const std::string& name) const override { return below_.name_in_file(name); }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override {
    return replaced_ == nullptr ? below_.weights() : infos_;
  }
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return below_.tokenizer_files();
  }
  [[nodiscard]] std::string kind() const override { return below_.kind(); }

 private:
  [[nodiscard]] Weight read(const std::string& name, ThreadPool& pool) const override {
    below_.release();
    if (replaced_ != nullptr && replaced_->specs.contains(name)) return replaced_->load(name);
    return below_.load(name, pool);
  }

  const Checkpoint& below_;
  const ReplacedWeights* replaced_;
  std::vector<WeightInfo> infos_;  // if some are
};

bool reads_any(const Op& op, const std::set<BufferId>& buffers) {
  const std::vector<BufferId> read = read_buffers(op);
  return std::any_of(read.begin(), read.end(), [&](BufferId id) { return buffers.contains(id); });
}

// Whether a layer's experts give what one of its linears reads that is wanted.
bool is_wanted_behind_experts(const std::vector<Op>& ops, const std::function<bool(const std::string&)>& wanted) {
  std::set<BufferId> given;
  for (const Op& op : ops) {
    if (op.as<MoeOp>() == nullptr && !reads_any(op, given)) continue;
    const auto* const linear = op.as<LinearOp>();
    if (linear != nullptr && wanted(linear->weight)) return true;
    for (const BufferId id : written_buffers(op)) given.insert(id);
  }
  return false;
}

}  // namespace

// A layer up to what its linear layers read.
struct LayerCalibration::Observed {
  Plan plan;
  std::vector<std::vector<std::string>> groups;  // that read the same, seen under the first one's name
  std::optional<MoeOp> moe;                      // which is not run
};

LayerCalibration::LayerCalibration(const Checkpoint& checkpoint, Plan plan, std::vector<TokenId> ids,
                                   std::int64_t context, const std::filesystem::path& scratch, const Backend& backend,
                                   ThreadPool& pool, int first)
    : checkpoint_(checkpoint),
      plan_(std::move(plan)),
      ids_(std::move(ids)),
      context_(context),
      scratch_(scratch),
      backend_(backend),
      pool_(pool),
      layer_(first) {
  const auto* const embedding = plan_.ops.front().as<EmbeddingOp>();
  if (embedding == nullptr) throw Error(ErrorCode::kUnsupported, "calibration: the model begins with no embedding");
  const auto open = first > 0 ? RowFile::Open::kExisting : RowFile::Open::kNew;
  rows_ = std::make_unique<RowFile>(path_of(first), tokens(), width_before(first), open);
  if (first > 0) return;
  Plan slice = plan_;
  slice.ops.erase(std::find_if(slice.ops.begin(), slice.ops.end(), [](const Op& op) { return op.layer >= 0; }),
                  slice.ops.end());  // what is made of the embedding stays
  give_rows_before(0, slice);
  slice.layers = 0;
  slice.caches.clear();
  run(slice, Overlay(checkpoint_, nullptr), std::array{Stream{nullptr, nullptr, rows_.get()}}, {});
}

LayerCalibration::~LayerCalibration() = default;

std::filesystem::path LayerCalibration::path_of(int layer) const {
  return scratch_ / fmt::format("activations-{}", layer);
}

// Hidden states first.
std::vector<BufferId> LayerCalibration::read_before(int layer) const {
  std::vector<BufferId> out{std::get<EmbeddingOp>(plan_.ops.front().body).out};
  std::set<BufferId> known(out.begin(), out.end());
  bool after = layer >= plan_.layers;  // whose ops are those behind all layers, which read hidden states
  for (const Op& op : plan_.ops) {
    after = after || op.layer >= layer;
    if (!after || layer >= plan_.layers) continue;
    for (const BufferId id : read_buffers(op)) {
      if (known.insert(id).second) out.push_back(id);
    }
    for (const BufferId id : written_buffers(op)) known.insert(id);
  }
  return out;
}

std::int64_t LayerCalibration::width_before(int layer) const {
  std::int64_t sum = 0;
  for (const BufferId id : read_before(layer)) sum += width(id);
  return sum;
}

// Ends it with what the layer and those after it read, side by side.
void LayerCalibration::give_rows_before(int layer, Plan& slice) const {
  const std::vector<BufferId> parts = read_before(layer);
  BufferId all = parts.front();
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const BufferId joined = slice.add_buffer("joined", slice.width(all) + width(parts[i]));
    slice.ops.emplace_back(JoinOp{all, parts[i], joined});
    all = joined;
  }
  slice.outputs = {{kHiddenOutput, all}};
}

// It begins with them, and gives hidden states.
Plan LayerCalibration::empty_slice(int layer) const {
  Plan out = plan_;
  out.layers = 1;
  out.caches = caches_of_layer(plan_, layer);
  const std::vector<BufferId> parts = read_before(layer);
  out.outputs = {{kHiddenOutput, parts.front()}};
  if (parts.size() == 1) {
    out.ops = {InputOp{parts.front()}};
    return out;
  }
  const BufferId all = out.add_buffer("rows", width_before(layer));
  out.ops = {InputOp{all}};
  std::int64_t first = 0;
  for (const BufferId part : parts) {
    out.ops.emplace_back(SliceOp{all, part, first});
    first += width(part);
  }
  return out;
}

Plan LayerCalibration::whole_slice(int layer) const {
  Plan out = empty_slice(layer);
  for (Op& op : ops_of_layer(plan_, layer)) out.ops.push_back(std::move(op));
  give_rows_before(layer + 1, out);
  return out;
}

LayerCalibration::Observed LayerCalibration::observed_slice(
    const std::function<bool(const std::string&)>& wanted) const {
  Observed out{empty_slice(layer_), {}, std::nullopt};
  std::set<BufferId> missing;  // what the experts would have given, and what comes of it
  const auto observe = [&](BufferId in, std::vector<std::string> weights, std::int64_t observed_width) {
    if (std::none_of(weights.begin(), weights.end(), wanted)) return;
    out.plan.ops.emplace_back(ObserveOp{in, weights.front(), observed_width});
    out.groups.push_back(std::move(weights));
  };
  const std::vector<Op> ops = ops_of_layer(plan_, layer_);
  const bool run_experts = is_wanted_behind_experts(ops, wanted);
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Op& op = ops[i];
    if (reads_any(op, missing)) {
      for (const BufferId id : written_buffers(op)) missing.insert(id);
      continue;
    }
    if (const auto* const moe = op.as<MoeOp>()) {
      out.moe = *moe;
      out.plan.ops.emplace_back(ObserveOp{moe->in, kExpertInputs, width(moe->in)});
      out.plan.ops.emplace_back(ObserveOp{moe->logits, kRouterLogits, moe->experts});
      if (run_experts) {
        out.plan.ops.push_back(op);
      } else {
        missing.insert(moe->out);
      }
      continue;
    }
    const auto* const linear = op.as<LinearOp>();
    const auto* const before = i > 0 ? ops[i - 1].as<LinearOp>() : nullptr;
    // Linears in a row that read the same buffer are shown it once.
    if (linear != nullptr && (before == nullptr || before->in != linear->in)) {
      std::vector<std::string> weights;
      for (std::size_t j = i; j < ops.size(); ++j) {
        const auto* const same = ops[j].as<LinearOp>();
        if (same == nullptr || same->in != linear->in) break;
        weights.push_back(same->weight);
      }
      observe(linear->in, std::move(weights), width(linear->in));
    }
    out.plan.ops.push_back(op);
    // Normalised by then.
    if (const auto* const latent = op.as<LatentAttentionOp>()) observe(latent->latent, {latent->expand}, latent->rank);
  }
  return out;
}

void LayerCalibration::run(const Plan& slice, const Checkpoint& checkpoint, std::span<const Stream> streams,
                           const Consumer& consume) {
  const auto model = backend_.prepare(slice, checkpoint, {Activations::kF32, {}});
  const auto pages = static_cast<int>(pages_for(context_));
  const auto runner = model->make_runner({kStep, 1, 1, pages, true}, CacheType::kF32);
  for (const Stream& stream : streams) run(stream, *runner, consume);
  expert_counts_ = runner->expert_counts().empty() ? std::vector<std::int64_t>{} : runner->expert_counts().front();
}

void LayerCalibration::fail_not_finite(const std::string& place) const {
  throw Error(ErrorCode::kCorruptFile,
              fmt::format("{}: layer {}: values on the text are not finite (NaN or infinite), the first come from: {}",
                          checkpoint_.where(), layer_, place));
}

void LayerCalibration::run(const Stream& stream, Runner& runner, const Consumer& consume) const {
  std::vector<std::int32_t> table(static_cast<std::size_t>(pages_for(context_)));
  std::iota(table.begin(), table.end(), 0);
  // Rows are taken while the step runs and handed on when it has, for the threads are busy before.
  std::map<std::string, std::pair<Rows, std::int64_t>> taken;
  const Observer observer = [&](const std::string& name, const ObservedRows& shown) {
    auto& [values, shown_width] = taken[name];
    shown_width = shown.width;
    for (std::int64_t r = 0; r < shown.rows; ++r)
      values.insert(values.end(), shown.x + r * shown.stride, shown.x + r * shown.stride + shown.width);
  };
  Rows input(stream.in != nullptr ? static_cast<std::size_t>(kStep * stream.in->width()) : 0);
  const auto total = stream.chosen != nullptr ? static_cast<std::int64_t>(stream.chosen->size()) : tokens();
  for (std::int64_t done = 0; done < total;) {
    const std::int64_t past = done % context_;
    const std::int64_t count = std::min({std::int64_t{kStep}, total - done, context_ - past});
    for (std::int64_t i = 0; stream.chosen != nullptr && i < count; ++i)
      stream.in->read((*stream.chosen)[static_cast<std::size_t>(done + i)], 1, input.data() + i * stream.in->width());
    if (stream.in != nullptr && stream.chosen == nullptr) stream.in->read(done, count, input.data());
    const SequenceSlice sequence{0, static_cast<int>(count), past, table};
    Batch batch;
    batch.tokens = std::span(ids_).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
    batch.sequences = {&sequence, 1};
    batch.input = stream.in == nullptr ? nullptr : input.data();
    batch.observer = consume ? &observer : nullptr;
    const float* const out = runner.step(batch);
    bool finite = stream.out == nullptr || all_finite({out, static_cast<std::size_t>(count * stream.out->width())});
    for (const auto& [name, rows] : taken) finite = finite && all_finite(rows.first);
    if (!finite) fail_not_finite(runner.not_finite_at(batch));
    if (stream.out != nullptr) stream.out->write(done, count, out);
    for (const auto& [name, rows] : taken) consume(name, rows.first, rows.second);
    taken.clear();
    done += count;
  }
}

void LayerCalibration::observe(const std::function<bool(const std::string& weight)>& wanted,
                               const InputVisitor& visit) {
  const Observed observed = observed_slice(wanted);
  const auto expert_wanted = [&](std::int64_t expert) {
    return wanted(expert_weight(*observed.moe, expert, "gate")) || wanted(expert_weight(*observed.moe, expert, "up")) ||
           wanted(expert_weight(*observed.moe, expert, "down"));
  };
  bool any_expert = false;
  for (std::int64_t i = 0; observed.moe && i < observed.moe->experts; ++i) any_expert = any_expert || expert_wanted(i);
  if (observed.groups.empty() && !any_expert) return;
  std::unique_ptr<RowFile> expert_inputs;
  Rows logits;
  std::int64_t seen = 0;  // rows of expert_inputs
  if (any_expert) {
    expert_inputs =
        std::make_unique<RowFile>(scratch_ / "expert-inputs", tokens(), width(observed.moe->in), RowFile::Open::kNew);
  }
  Sums sums;
  std::set<std::string> asked;
  for (const std::vector<std::string>& weights : observed.groups) asked.insert(weights.front());
  const Consumer consume = [&](const std::string& name, const Rows& rows, std::int64_t columns) {
    const std::int64_t count = static_cast<std::int64_t>(rows.size()) / columns;
    if (name == kRouterLogits) {
      logits.insert(logits.end(), rows.begin(), rows.end());
    } else if (name != kExpertInputs) {
      if (!asked.contains(name)) return;  // of an expert that runs
      sums.try_emplace(name, columns).first->second.add(rows.data(), count, pool_);
    } else if (any_expert) {
      expert_inputs->write(seen, count, rows.data());
      seen += count;
    }
  };
  run(observed.plan, Overlay(checkpoint_, nullptr), std::array{Stream{rows_.get(), nullptr, nullptr}}, consume);
  for (const std::vector<std::string>& weights : observed.groups) {
    visit(weights, &sums.at(weights.front()));
    sums.erase(weights.front());
  }
  if (!any_expert) return;
  const std::vector<std::vector<std::int32_t>> tokens_of = route(*observed.moe, logits);
  for (std::int64_t expert = 0; expert < observed.moe->experts; ++expert) {
    if (expert_wanted(expert))
      observe_expert(*observed.moe, expert, *expert_inputs, tokens_of[static_cast<std::size_t>(expert)], visit);
  }
}

std::vector<std::vector<std::int32_t>> LayerCalibration::route(const MoeOp& moe, const Rows& logits) const {
  Rows bias;
  if (!moe.router_bias.empty()) bias = load_vector(checkpoint_, {moe.router_bias, {moe.experts}}, pool_);
  std::vector<std::vector<std::int32_t>> out(static_cast<std::size_t>(moe.experts));
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(moe.top_k));
  Rows weights(chosen.size());
  Rows scratch(static_cast<std::size_t>(route_scratch_floats(moe)));
  for (std::int64_t token = 0; token < tokens(); ++token) {
    route_token(moe, logits.data() + token * moe.experts, bias.empty() ? nullptr : bias.data(), scratch.data(),
                chosen.data(), weights.data());
    for (const std::int32_t expert : chosen)
      out[static_cast<std::size_t>(expert)].push_back(static_cast<std::int32_t>(token));
  }
  return out;
}

void LayerCalibration::observe_expert(const MoeOp& moe, std::int64_t expert, const RowFile& in,
                                      const std::vector<std::int32_t>& tokens, const InputVisitor& visit) {
  const std::string gate = expert_weight(moe, expert, "gate");
  const std::string up = expert_weight(moe, expert, "up");
  const std::string down = expert_weight(moe, expert, "down");
  if (tokens.empty()) {
    visit({gate, up}, nullptr);
    return visit({down}, nullptr);
  }
  Plan plan;
  const BufferId x = plan.add_buffer("x", width(moe.in));
  const BufferId gated = plan.add_buffer("gate", moe.intermediate);
  const BufferId raised = plan.add_buffer("up", moe.intermediate);
  const BufferId active = plan.add_buffer("active", moe.intermediate);
  plan.outputs = {{"active", active}};
  plan.ops = {InputOp{x},
              ObserveOp{x, gate, width(moe.in)},
              LinearOp{x, gated, gate, expert_bias(moe, expert, "gate")},
              LinearOp{x, raised, up, expert_bias(moe, expert, "up")},
              GatedOp{gated, raised, active, moe.activation, moe.clamp},
              ObserveOp{active, down, moe.intermediate}};
  Sums sums;
  const Consumer consume = [&](const std::string& name, const Rows& rows, std::int64_t columns) {
    sums.try_emplace(name, columns)
        .first->second.add(rows.data(), static_cast<std::int64_t>(rows.size()) / columns, pool_);
  };
  run(plan, Overlay(checkpoint_, nullptr), std::array{Stream{&in, &tokens, nullptr}}, consume);
  visit({gate, up}, &sums.at(gate));
  visit({down}, &sums.at(down));
}

void LayerCalibration::advance(const ReplacedWeights& weights) {
  auto next = std::make_unique<RowFile>(path_of(layer_ + 1), tokens(), width_before(layer_ + 1), RowFile::Open::kNew);
  pass(layer_, weights, std::array{Passage{rows_.get(), next.get()}});
  next->sync();
  rows_ = std::move(next);
  // The last layer's stay: a run that is cut off now may go on from either.
  if (layer_ > 0) std::filesystem::remove(path_of(layer_ - 1));
  ++layer_;
}

void LayerCalibration::pass(int layer, const ReplacedWeights& weights, std::span<const Passage> passages) {
  std::vector<Stream> streams;
  for (const Passage& passage : passages) streams.push_back({passage.in, nullptr, passage.out});
  run(whole_slice(layer), Overlay(checkpoint_, &weights), streams, {});
}

std::vector<double> LayerCalibration::divergences(const RowFile& reference, std::span<const RowFile* const> others) {
  // What follows the last layer, for all tokens.
  Plan plan = plan_;
  plan.layers = 0;
  plan.caches.clear();
  const BufferId hidden = std::get<EmbeddingOp>(plan_.ops.front().body).out;
  plan.ops = {InputOp{hidden}};
  const auto after =
      std::find_if(plan_.ops.begin(), plan_.ops.end(), [](const Op& op) { return op.as<SelectOp>() != nullptr; });
  plan.ops.insert(plan.ops.end(), after, plan_.ops.end());
  const auto model = backend_.prepare(plan, Overlay(checkpoint_, nullptr), {Activations::kF32, {}});
  constexpr int kStepRows = 64;
  const auto runner = model->make_runner({kStepRows, kStepRows, 1, kStepRows / kCachePageTokens}, CacheType::kF32);
  std::array<std::int32_t, kStepRows / kCachePageTokens> table{};
  std::array<int, kStepRows> all{};
  std::iota(all.begin(), all.end(), 0);
  Rows input(static_cast<std::size_t>(kStepRows * reference.width()));
  const auto vocab = static_cast<std::size_t>(width(plan_.result()));
  std::vector<double> sums(others.size());
  for (std::int64_t done = 0; done < tokens(); done += kStepRows) {
    const std::int64_t count = std::min<std::int64_t>(kStepRows, tokens() - done);
    const SequenceSlice sequence{0, static_cast<int>(count), 0, table};
    Batch batch;
    batch.tokens = std::span(ids_).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
    batch.sequences = {&sequence, 1};
    batch.selected = std::span(all).first(static_cast<std::size_t>(count));
    batch.input = input.data();
    const auto logits_of = [&](const RowFile& rows) {
      rows.read(done, count, input.data());
      const float* const out = runner->step(batch);
      return Rows(out, out + static_cast<std::size_t>(count) * vocab);
    };
    const Rows expected = logits_of(reference);
    for (std::size_t i = 0; i < others.size(); ++i) {
      const Rows found = logits_of(*others[i]);
      std::vector<double> of_rows(static_cast<std::size_t>(count));
      pool_.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          const auto row = [&](const Rows& all_rows) {
            return std::span(all_rows).subspan(static_cast<std::size_t>(r) * vocab, vocab);
          };
          of_rows[static_cast<std::size_t>(r)] =
              kl_divergence(row(expected), log_sum_exp(row(expected)), row(found), log_sum_exp(row(found)));
        }
      });
      sums[i] = std::accumulate(of_rows.begin(), of_rows.end(), sums[i]);
    }
  }
  for (double& sum : sums) {
    sum /= static_cast<double>(tokens());
    if (!std::isfinite(sum))
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: the logits on the text are not finite", checkpoint_.where()));
  }
  return sums;
}

}  // namespace metal_marlin

// Every op on every backend beside the plain CPU kernels, over odd shapes. What an op reads, writes and weighs is
// what OpTraits says; an op kind that has no cases here does not compile.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "backends/cpu/kernels.h"
#include "backends/registry.h"
#include "base/hash.h"
#include "base/shared_pool.h"
#include "linear_cases.h"
#include "made_checkpoint.h"
#include "ops/op_traits.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kVocab = 29;

struct Case {
  std::string name;
  Plan plan;
  std::optional<FormatSpec> spec = {};  // of the quantizable weights but the tables that inputs come from
};

// A plan of one op: its inputs are rows of tables, by token; its result is one of the buffers that it writes.
class CasePlan {
 public:
  BufferId in(std::int64_t width) {
    const BufferId id = plan.add_buffer("in", width);
    plan.ops.emplace_back(EmbeddingOp{"table " + std::to_string(id), id, kVocab});
    return id;
  }
  BufferId out(std::int64_t width, bool selected = false) { return plan.add_buffer("out", width, selected); }

  // A case for each buffer that shows what the op has done.
  std::vector<Case> with(const std::string& name, const Op& op, const std::optional<FormatSpec>& spec = {}) {
    plan.ops.push_back(op);
    plan.ops.back().layer = 0;
    std::vector<BufferId> shown = written_buffers(op);
    if (shown.empty()) shown = read_buffers(op);
    std::vector<Case> cases;
    for (const BufferId id : shown) {
      Case c{name + " buffer " + std::to_string(id), plan, spec};
      BufferId result = id;
      if (!plan.buffers[static_cast<std::size_t>(id)].selected) {
        result = c.plan.add_buffer("result", plan.width(id), true);
        c.plan.ops.emplace_back(SelectOp{id, result});
      }
      c.plan.outputs = {{"result", result}};
      cases.push_back(std::move(c));
    }
    return cases;
  }

  Plan plan;
};

using Cases = std::vector<Case>;
void append(Cases& to, Cases more) {
  std::move(more.begin(), more.end(), std::back_inserter(to));
}

template <typename T>
Cases cases_of() = delete;

template <>
Cases cases_of<EmbeddingOp>() {
  Cases out;
  for (const std::int64_t width : {1, 33, 160}) {
    CasePlan p;
    const BufferId to = p.out(width);
    append(out, p.with(std::to_string(width), EmbeddingOp{"weight", to, kVocab}));
  }
  CasePlan p;
  const BufferId to = p.out(96);
  append(out, p.with("packed", EmbeddingOp{"weight", to, kVocab}, default_spec(Format::kInt8)));
  return out;
}

template <>
Cases cases_of<NormOp>() {
  Cases out;
  for (const auto& [rows, width] : {std::pair<int, int>{1, 5}, {1, 130}, {3, 20}}) {
    CasePlan p;
    const BufferId x = p.in(std::int64_t{rows} * width);
    const BufferId y = p.out(std::int64_t{rows} * width);
    append(out, CasePlan(p).with("apart", NormOp{x, y, "norm", width, 1e-5F}));
    append(out, CasePlan(p).with("in place", NormOp{x, x, "norm", width, 1e-5F}));
    append(out, CasePlan(p).with("one more", NormOp{x, y, "norm", width, 1e-5F, NormKind::kRms, true}));
    append(out, CasePlan(p).with("bare", NormOp{x, y, "", width, 1e-5F}));
    append(out, CasePlan(p).with("bare in place", NormOp{x, x, "", width, 1e-5F}));
    append(out, CasePlan(p).with("layer", NormOp{x, y, "norm", width, 1e-5F, NormKind::kLayer}));
    append(out, CasePlan(p).with("layer in place", NormOp{x, x, "norm", width, 1e-5F, NormKind::kLayer}));
  }
  return out;
}

template <>
Cases cases_of<LinearOp>() {
  Cases out;
  std::vector<std::optional<FormatSpec>> specs{std::nullopt};
  for (const FormatInfo& info : all_formats()) specs.emplace_back(default_spec(info.format));
  for (const auto& spec : specs) {
    for (const auto& [cols, rows] : {std::pair<int, int>{37, 5}, {96, 33}, {1, 17}}) {
      for (const char* const bias : {"", "bias"}) {
        CasePlan p;
        const BufferId x = p.in(cols);
        const BufferId y = p.out(rows);
        append(out, p.with(std::to_string(cols) + " to " + std::to_string(rows) + (spec ? text(*spec) : " dense"),
                           LinearOp{x, y, "weight", bias}, spec));
      }
    }
  }
  return out;
}

void add_ropes(Plan& plan, std::int64_t dim) {
  RopeTable table{{}, 1.25F};
  for (std::int64_t i = 0; i < dim / 2; ++i) table.frequencies.push_back(std::pow(0.3F, static_cast<float>(i)));
  plan.ropes = {{std::vector<float>(static_cast<std::size_t>(dim / 2), 0.5F), 1}, table};  // the second is used
}

template <>
Cases cases_of<RopeOp>() {
  Cases out;
  for (const auto& [heads, dim] : {std::pair<int, int>{1, 2}, {3, 10}, {5, 64}}) {
    CasePlan p;
    add_ropes(p.plan, dim);
    const BufferId x = p.in(std::int64_t{heads} * dim);
    append(out, CasePlan(p).with("rope", RopeOp{x, heads, dim, 1}));
    append(out, p.with("interleaved", RopeOp{x, heads, dim, 1, true}));
  }
  for (const bool interleaved : {false, true}) {
    CasePlan p;
    add_ropes(p.plan, 34);  // of 50
    const BufferId x = p.in(150);
    append(out, p.with("a part of heads", RopeOp{x, 3, 50, 1, interleaved}));
  }
  return out;
}

template <>
Cases cases_of<PositionScaleOp>() {
  CasePlan p;
  const BufferId x = p.in(37);
  return p.with("scale by position", PositionScaleOp{x, 0.3F, 4});
}

template <>
Cases cases_of<AttentionOp>() {
  Cases out;
  for (const auto& [heads, kv_heads, dim, window] :
       {std::array<int, 4>{1, 1, 5, 0}, {6, 2, 20, 0}, {3, 1, 72, 7}, {2, 2, 33, 1}}) {
    CasePlan p;
    p.plan.layers = 1;
    p.plan.caches = {{kv_heads, dim, dim, false}};
    const BufferId q = p.in(std::int64_t{heads} * dim);
    const BufferId k = p.in(std::int64_t{kv_heads} * dim);
    const BufferId v = p.in(std::int64_t{kv_heads} * dim);
    const BufferId y = p.out(std::int64_t{heads} * dim);
    for (const float soft_cap : {0.0F, 1.5F}) {
      append(out, CasePlan(p).with("dim " + std::to_string(dim),
                                   AttentionOp{q, k, v, y, heads, kv_heads, dim, 0.4F, window, soft_cap}));
      append(out, CasePlan(p).with("sinks, dim " + std::to_string(dim),
                                   AttentionOp{q, k, v, y, heads, kv_heads, dim, 0.4F, window, soft_cap, -1, "sinks"}));
    }
    // Another layer has put them there; its own cache has no room.
    p.plan.layers = 2;
    p.plan.caches.emplace_back();
    p.plan.ops.emplace_back(AttentionOp{q, k, v, y, heads, kv_heads, dim, 0.4F, window}, 1);
    std::swap(p.plan.caches[0], p.plan.caches[1]);
    const BufferId other = p.in(std::int64_t{heads} * dim);
    const BufferId read = p.out(std::int64_t{heads} * dim);
    append(out, p.with("of another layer, dim " + std::to_string(dim),
                       AttentionOp{other, k, v, read, heads, kv_heads, dim, 0.3F, window, 0, 1}));
  }
  return out;
}

template <>
Cases cases_of<LatentAttentionOp>() {
  Cases out;
  for (const bool interleaved : {false, true}) {
    for (const auto& [heads, nope, rope, value, rank] :
         {std::array<int, 5>{1, 3, 2, 5, 7}, {3, 10, 6, 14, 20}, {5, 33, 8, 40, 96}}) {
      CasePlan p;
      p.plan.layers = 1;
      p.plan.caches = {{1, rank + rope, rank, true}};
      add_ropes(p.plan, rope);
      const BufferId q = p.in(std::int64_t{heads} * (nope + rope));
      const BufferId latent = p.in(rank + rope);
      const BufferId y = p.out(std::int64_t{heads} * value);
      append(out,
             p.with("rank " + std::to_string(rank), LatentAttentionOp{q, latent, y, "norm", 1e-6F, "expand", 1, heads,
                                                                      nope, rope, value, rank, 0.3F, interleaved}));
    }
  }
  // Queries and latents are workspace once they have been used: what they hold is nobody's business.
  std::erase_if(out, [](const Case& c) { return !c.name.ends_with("buffer 2"); });
  return out;
}

template <>
Cases cases_of<MoeOp>() {
  Cases out;
  for (const auto& [scoring, groups, best, bias] :
       {std::tuple{RouterScoring::kSoftmax, 1, 2, ""}, std::tuple{RouterScoring::kSoftmax, 2, 1, ""},
        std::tuple{RouterScoring::kSigmoid, 2, 2, "router bias"}}) {
    for (const auto& [experts, top_k, hidden, intermediate] :
         {std::array<int, 4>{4, 1, 37, 5}, {6, 2, 40, 33}, {8, 4, 96, 64}}) {
      CasePlan p;
      p.plan.layers = 1;
      const BufferId x = p.in(hidden);
      const BufferId logits = p.in(experts);
      const BufferId y = p.out(hidden);
      CasePlan q = p;
      append(out, p.with(std::to_string(experts) + " experts",
                         MoeOp{x, logits, y, "experts.", bias, experts, top_k, intermediate, groups, 1, scoring,
                               scoring == RouterScoring::kSigmoid, 1.7F, 0, best}));
      // Clamped where most numbers are.
      MoeOp clamped{x, logits, y, "experts.", bias, experts, top_k, intermediate, groups, 1, scoring, true, 1};
      clamped.activation = GateActivation::kClamped;
      clamped.clamp = {1.3F, 4};
      clamped.biases = true;
      CasePlan r = q;
      append(out, q.with(std::to_string(experts) + " experts, clamped, with biases", clamped));
      MoeOp scaled{x, logits, y, "experts.", bias, experts, top_k, intermediate, groups, 1, scoring, true, 1};
      scaled.activation = GateActivation::kGeluTanh;
      scaled.expert_scales = "factors";
      append(out, r.with(std::to_string(experts) + " experts of GELU, with factors", scaled));
    }
  }
  return out;
}

template <>
Cases cases_of<GatedOp>() {
  Cases out;
  for (const GateActivation activation :
       {GateActivation::kSilu, GateActivation::kGeluTanh, GateActivation::kGelu, GateActivation::kClamped}) {
    CasePlan p;
    const BufferId gate = p.in(37);
    const BufferId up = p.in(37);
    const BufferId y = p.out(37);
    append(out, p.with("activation " + std::to_string(static_cast<int>(activation)),
                       GatedOp{gate, up, y, activation, {1.3F, 0.7F}}));
  }
  return out;
}

template <>
Cases cases_of<AddOp>() {
  CasePlan p;
  const BufferId x = p.in(37);
  const BufferId y = p.in(37);
  Cases out = CasePlan(p).with("add", AddOp{x, y});
  const BufferId gate = p.in(1);
  append(out, p.with("gated", AddOp{x, y, gate}));
  return out;
}

template <>
Cases cases_of<ScaleOp>() {
  Cases out;
  for (const float soft_cap : {0.0F, 0.7F}) {
    CasePlan p;
    const BufferId x = p.in(37);
    append(out, CasePlan(p).with("soft cap " + std::to_string(soft_cap), ScaleOp{x, -1.3F, soft_cap}));
    append(out, p.with("weight, soft cap " + std::to_string(soft_cap), ScaleOp{x, 0.4F, soft_cap, "factor"}));
  }
  return out;
}

template <>
Cases cases_of<HadamardOp>() {
  Cases out;
  for (const int block : {16, 32, 128}) {
    CasePlan p;
    const BufferId x = p.in(std::int64_t{3} * block);
    const BufferId y = p.out(std::int64_t{3} * block);
    append(out, p.with("block " + std::to_string(block), HadamardOp{x, y, block}));
  }
  return out;
}

template <>
Cases cases_of<SelectOp>() {
  CasePlan p;
  const BufferId x = p.in(33);
  const BufferId y = p.out(33, true);
  return p.with("select", SelectOp{x, y});
}

template <>
Cases cases_of<InputOp>() {
  CasePlan p;
  const BufferId x = p.out(33);
  return p.with("input", InputOp{x});
}

template <>
Cases cases_of<JoinOp>() {
  Cases out;
  for (const auto& [first, second] : {std::pair<int, int>{33, 33}, {1, 130}, {64, 7}}) {
    CasePlan p;
    const BufferId x = p.in(first);
    const BufferId y = p.in(second);
    const BufferId to = p.out(first + second);
    append(out, p.with(std::to_string(first) + " and " + std::to_string(second), JoinOp{x, y, to}));
  }
  return out;
}

template <>
Cases cases_of<SliceOp>() {
  Cases out;
  for (const auto& [width, first, count] : {std::array<int, 3>{96, 32, 32}, {130, 0, 1}, {130, 129, 1}, {60, 36, 24}}) {
    CasePlan p;
    const BufferId x = p.in(width);
    const BufferId to = p.out(count);
    append(out, p.with(std::to_string(count) + " from " + std::to_string(first), SliceOp{x, to, first}));
  }
  return out;
}

template <>
Cases cases_of<ObserveOp>() {
  CasePlan p;
  const BufferId x = p.in(33);
  return p.with("observe", ObserveOp{x, "seen", 20});
}

// Random weights, the same for a name and a shape wherever they are asked for.
MadeCheckpoint random_checkpoint(const Case& c) {
  std::vector<WeightInfo> weights;
  for (const PlannedWeight& planned : planned_weights(c.plan)) {
    weights.push_back({planned.name, planned.shape, DType::kF32, std::nullopt, 1, ""});
    if (planned.quantizable && !planned.name.starts_with("table")) weights.back().packed = c.spec;
  }
  return {std::move(weights), [](const WeightInfo& info) -> Weight {
            const auto seed = static_cast<unsigned>(hash_of(std::as_bytes(std::span(info.name))));
            if (info.packed) return packed_matrix(*info.packed, info.shape[0], info.shape[1], seed).weight;
            const auto count = static_cast<std::size_t>(*element_count(info.shape));
            auto values = std::make_shared<std::vector<float>>(normal_data(count, seed));
            return {DenseView{DType::kF32, info.shape, std::as_bytes(std::span(*values))}, values};
          }};
}

// What a model makes of two steps: two sequences begin, of 19 tokens and of one, and both go on.
std::vector<float> results(const PreparedModel& model, const Plan& plan) {
  const std::int64_t width = plan.width(plan.result());
  constexpr int kTokens = 24;
  const auto runner = model.make_runner({kTokens, kTokens, 2, 6}, CacheType::kF32);
  const std::vector<std::int32_t> pages_a{3, 0};
  const std::vector<std::int32_t> pages_b{5, 1};
  const bool watched = plan.find<ObserveOp>() != nullptr;
  std::vector<float> out;
  std::mt19937 random(7);
  for (const auto& [a, past_a, b, past_b] : {std::array<int, 4>{19, 0, 1, 0}, {1, 19, 3, 1}}) {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(a + b));
    for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % kVocab);
    std::vector<int> selected(tokens.size());
    for (std::size_t i = 0; i < selected.size(); ++i) selected[i] = static_cast<int>(i);
    const std::vector<float> input =
        normal_data(tokens.size() * static_cast<std::size_t>(width), static_cast<unsigned>(random()));
    const std::vector<SequenceSlice> slices{{0, a, past_a, pages_a}, {a, b, past_b, pages_b}};
    const Observer observer = [&](const std::string& name, const ObservedRows& rows) {
      EXPECT_EQ(name, "seen");
      for (std::int64_t r = 0; r < rows.rows; ++r)
        out.insert(out.end(), rows.x + r * rows.stride, rows.x + r * rows.stride + rows.width);
    };
    const float* const rows = runner->step({tokens, slices, selected, input.data(), watched ? &observer : nullptr});
    out.insert(out.end(), rows, rows + static_cast<std::ptrdiff_t>(selected.size()) * width);
  }
  return out;
}

std::unique_ptr<Backend> cpu_backend(std::string_view instruction_set) {
  return make_backend("cpu", {shared_pool(2), std::string(instruction_set)});
}

std::vector<float> results_of(const Backend& backend, const Case& c) {
  return results(*backend.prepare(c.plan, random_checkpoint(c), {Activations::kF32, {}}), c.plan);
}

template <typename T>
void expect_conforming(const Backend& backend) {
  static const std::unique_ptr<Backend> plain = cpu_backend("plain");
  for (const Case& c : cases_of<T>()) {
    SCOPED_TRACE(std::string(OpTraits<T>::kName) + ", " + c.name);
    const std::vector<float> expected = results_of(*plain, c);
    const std::vector<float> found = results_of(backend, c);
    ASSERT_EQ(found.size(), expected.size());
    float largest = 0;
    for (const float x : expected) largest = std::max(largest, std::fabs(x));
    ASSERT_GT(largest, 0);
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found[i], expected[i], 5e-6F * largest) << i;
  }
}

template <std::size_t... I>
void expect_all_conforming(const Backend& backend, std::index_sequence<I...>) {
  (expect_conforming<std::variant_alternative_t<I, OpBody>>(backend), ...);
}
using AllOps = std::make_index_sequence<std::variant_size_v<OpBody>>;

class Conformance : public testing::TestWithParam<std::string> {};
TEST_P(Conformance, EveryOp) {
  if (GetParam() != "cpu") return expect_all_conforming(*make_backend(GetParam(), {shared_pool(2), ""}), AllOps{});
  for (const cpu::Kernels* const kernels : cpu::available_kernels()) {
    SCOPED_TRACE(kernels->name);
    expect_all_conforming(*cpu_backend(kernels->name), AllOps{});
  }
}
TEST_P(Conformance, ScalesOfTwoLevelsAreRefusedByName) {
  FormatSpec spec = default_spec(Format::kU4);
  spec.sub_scale = SubScale::kU6;
  CasePlan p;
  const BufferId x = p.in(256);
  const BufferId y = p.out(3);
  const Cases cases = p.with("linear", LinearOp{x, y, "weight", ""}, spec);
  const auto backend = make_backend(GetParam(), {shared_pool(2), ""});
  expect_error(ErrorCode::kUnsupported, "made weight: tensor weight: u4, scales of two levels, which no backend",
               [&] { results_of(*backend, cases[0]); });
}
INSTANTIATE_TEST_SUITE_P(Backends, Conformance, testing::ValuesIn(available_backends()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace metal_marlin

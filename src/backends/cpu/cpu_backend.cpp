#include "backends/cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "backends/cpu/cache_rows.h"
#include "backends/cpu/latent_attention.h"
#include "backends/cpu/mixture_of_experts.h"
#include "backends/cpu/program.h"
#include "backends/cpu/step_context.h"
#include "base/finite.h"
#include "base/memory.h"
#include "formats/hadamard.h"

namespace metal_marlin::cpu {
namespace {

// Up to this many tokens, every thread prepares a linear's input for itself:
// cheaper than meeting at a barrier.
constexpr int kFewTokens = 2;
// Query rows of an attention tile.
constexpr int kAttentionRows = 32;

CachePage cache_page(const CacheShape& shape, CacheType type) {
  return {static_cast<int>(shape.key_dim), static_cast<int>(shape.value_dim), shape.latent, type};
}

// How a layer's keys and values lie: head by head, the pages of each in a row.
struct LayerCache {
  CachePage page;
  std::size_t page_bytes;
  std::size_t heads;
  std::size_t before;  // bytes of a page in the layers before it
};

std::vector<LayerCache> layer_caches(const Plan& plan, CacheType type) {
  std::vector<LayerCache> out;
  std::size_t bytes = 0;
  for (const CacheShape& shape : plan.caches) {
    const CachePage page = cache_page(shape, type);
    out.push_back({page, page_bytes(page), static_cast<std::size_t>(shape.heads), bytes});
    bytes += out.back().page_bytes * out.back().heads;
  }
  return out;
}

// Of a page in all layers.
std::size_t cache_bytes(const std::vector<LayerCache>& caches) {
  return caches.empty() ? 0 : caches.back().before + caches.back().page_bytes * caches.back().heads;
}

class CpuModel final : public PreparedModel {
 public:
  CpuModel(Program program, ThreadPool& pool, const Kernels& kernels, Activations activations)
      : program_(std::move(program)), pool_(pool), kernels_(kernels), activations_(activations) {}

  [[nodiscard]] std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t workspace_bytes(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t weight_bytes() const override {
    std::size_t bytes = 0;
    for (const auto& [name, matrix] : program_.matrices) bytes += program_.shared.contains(name) ? 0 : matrix->bytes();
    for (const auto& [name, heads] : program_.expansions) {
      for (const auto& matrix : heads.keys) bytes += matrix->bytes();
      for (const auto& matrix : heads.values) bytes += matrix->bytes();
    }
    for (const auto& [name, vector] : program_.vectors) bytes += vector.size() * sizeof(float);
    bytes += program_.ones.size() * sizeof(float);
    return bytes + (program_.low_ranks ? program_.low_ranks->bytes() : 0);
  }
  // hidden: the one that ends with the hidden states, made when it is first asked for.
  [[nodiscard]] const Program& program(bool hidden) const {
    if (!hidden) return program_;
    std::call_once(hidden_made_,
                   [this] { hidden_ = over_weights(hidden_plan(program_.plan), program_, kernels_, activations_); });
    return hidden_;
  }
  [[nodiscard]] ThreadPool& pool() const { return pool_; }
  [[nodiscard]] const Kernels& kernels() const { return kernels_; }

 private:
  Program program_;
  mutable std::once_flag hidden_made_;
  mutable Program hidden_;  // over the weights of the other
  ThreadPool& pool_;
  const Kernels& kernels_;
  Activations activations_;
};

class CpuRunner final : public Runner {
 public:
  CpuRunner(const CpuModel& model, const RunnerLimits& limits, CacheType cache, WorkspaceMemory& memory)
      : program_(model.program(limits.hidden)),
        k_(model.kernels()),
        pool_(model.pool()),
        caches_(layer_caches(program_.plan, cache)),
        one_order_(limits.one_order),
        experts_(program_, limits, memory),
        low_ranks_(program_.low_rank_sizes, limits, memory),
        latent_attention_(program_, limits, caches_.empty() ? CachePage{} : caches_.front().page, pool_.size(),
                          memory) {
    const WorkspaceLayout layout = lay_out(program_, limits);
    offsets_ = layout.offsets;
    workspace_ = memory.take(static_cast<std::size_t>(layout.floats) * sizeof(float));
    const std::int64_t input_blocks = program_.widest_input / kBlock;
    q8_ = memory.take(static_cast<std::size_t>(limits.tokens * input_blocks) * sizeof(Q8Block));
    bf16_ = memory.take(static_cast<std::size_t>(limits.tokens * program_.widest_input) * sizeof(std::uint16_t));
    f32_ = memory.take(static_cast<std::size_t>(limits.tokens * program_.widest_input) * sizeof(float));
    for (const RopeTable& table : program_.plan.ropes) {
      const std::size_t pairs = table.frequencies.size();
      const std::size_t angles = static_cast<std::size_t>(limits.tokens) * pairs;
      ropes_.push_back(
          {static_cast<std::int64_t>(pairs), memory.take_vector<float>(angles), memory.take_vector<float>(angles)});
      const std::size_t sequences = table.frequencies_of ? static_cast<std::size_t>(limits.sequences) : 0;
      frequencies_.push_back(memory.take_vector<float>(sequences * pairs));
    }
    counters_ = std::vector<std::atomic<std::int64_t>>(StepContext::kPhases * program_.steps.size());
    tiles_ =
        memory.take_vector<Tile>(static_cast<std::size_t>(limits.tokens) + static_cast<std::size_t>(limits.sequences));
    rows_ = memory.take_vector<TokenPlace>(static_cast<std::size_t>(limits.tokens));
    allocate_scratch(memory);
  }

  void submit(const Batch& batch) override {
    batch_ = &batch;
    plan_batch();
    for (auto& counter : counters_) counter.store(0, std::memory_order_relaxed);
    pool_.run([&](int thread) {
      rope_tables(thread);
      for (std::size_t i = 0; i < program_.steps.size(); ++i) {
        const StepContext context{k_,
                                  pool_,
                                  thread,
                                  batch,
                                  std::span(rows_).first(batch.tokens.size()),
                                  ropes_,
                                  scratch_[static_cast<std::size_t>(thread)].linear.as<float>(),
                                  one_order_,
                                  &counters_[i * StepContext::kPhases]};
        std::visit([&](const auto& step) { run(step, context); }, program_.steps[i]);
        pool_.barrier();
        if (!searching_) continue;
        if (thread == 0) search(i);
        pool_.barrier();
      }
    });
  }
  const float* wait() override { return buffer(program_.plan.result()); }
  void wait_tokens(std::span<TokenId> next) override {
    sample_rows(wait(), width(program_.plan.result()), batch_->samplers, next);
  }
  const float* logits_of(std::size_t row) override {
    return wait() + row * static_cast<std::size_t>(width(program_.plan.result()));
  }

  const float* hidden() override { return buffer(program_.plan.output(kHiddenOutput)); }

  std::string not_finite_at(const Batch& batch) override {
    searching_ = true;
    not_finite_.reset();
    step(batch);
    searching_ = false;
    return not_finite_ ? program_.notes[*not_finite_].ops : "";
  }

  void grow_cache(int pages) override {
    const auto count = static_cast<std::size_t>(pages);
    AlignedBuffer larger(cache_bytes(caches_) * count);
    pool_.parallel_for(static_cast<std::int64_t>(caches_.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto layer = static_cast<std::size_t>(begin); layer < static_cast<std::size_t>(end); ++layer) {
        const LayerCache& c = caches_[layer];
        for (std::size_t head = 0; pages_ != 0 && head < c.heads; ++head) {
          const std::size_t before = c.before + head * c.page_bytes;
          std::memcpy(larger.data() + before * count, cache_.data() + before * pages_, pages_ * c.page_bytes);
        }
      }
    });
    cache_ = std::move(larger);
    pages_ = count;
  }

  void copy_page(std::int32_t from, std::int32_t to) override {
    for_each_head([&](std::byte* pages, std::size_t bytes) {
      std::memcpy(page_of(pages, bytes, to), page_of(pages, bytes, from), bytes);
    });
  }

  void read_pages(std::span<const std::int32_t> pages, std::span<std::byte> bytes) override {
    std::byte* to = bytes.data();
    for_each_head([&](std::byte* cached, std::size_t size) {
      for (const std::int32_t page : pages) {
        std::memcpy(to, page_of(cached, size, page), size);
        to += size;
      }
    });
  }

  void write_pages(std::span<const std::int32_t> pages, std::size_t skip, std::span<const std::byte> bytes) override {
    const std::byte* from = bytes.data();
    for_each_head([&](std::byte* cached, std::size_t size) {
      from += skip * size;
      for (const std::int32_t page : pages) {
        std::memcpy(page_of(cached, size, page), from, size);
        from += size;
      }
    });
  }

  [[nodiscard]] std::vector<std::vector<std::int64_t>> expert_counts() const override { return experts_.totals(); }

 private:
  // A run of tokens of one sequence whose queries are answered together.
  struct Tile {
    const SequenceSlice* sequence;
    int first;  // within the slice
    int count;
  };
  struct Scratch {
    AlignedBuffer linear;
    AlignedBuffer attention;
    AlignedBuffer q8;
    AlignedBuffer bf16;
    AlignedBuffer f32;
  };

  // Notes the first step that leaves something that is not finite.
  void search(std::size_t step) {
    if (not_finite_) return;
    for (const BufferId id : program_.notes[step].buffers) {
      if (!all_finite({buffer(id), static_cast<std::size_t>(rows(id) * width(id))})) not_finite_ = step;
    }
  }

  void allocate_scratch(WorkspaceMemory& memory) {
    std::int64_t attention = 0;
    tile_tokens_ = kAttentionRows;
    for (const Step& step : program_.steps) {
      if (const auto* const s = std::get_if<AttentionStep>(&step))
        tile_tokens_ = std::min(tile_tokens_, std::max(1, static_cast<int>(kAttentionRows / group_of(s->op))));
    }
    for (const Step& step : program_.steps) {
      if (const auto* const s = std::get_if<AttentionStep>(&step))
        attention = std::max(attention, attention_scratch_floats(tile_tokens_ * group_of(s->op), cache_of(*s).page));
    }
    for (int i = 0; i < pool_.size(); ++i) {
      Scratch scratch;
      scratch.linear = memory.take(static_cast<std::size_t>(program_.linear_scratch) * sizeof(float));
      scratch.attention = memory.take(static_cast<std::size_t>(attention) * sizeof(float));
      scratch.q8 = memory.take(static_cast<std::size_t>(program_.widest_input / kBlock) * kFewTokens * sizeof(Q8Block));
      scratch.bf16 = memory.take(static_cast<std::size_t>(program_.widest_input) * kFewTokens * sizeof(std::uint16_t));
      scratch.f32 = memory.take(static_cast<std::size_t>(program_.widest_input) * kFewTokens * sizeof(float));
      scratch_.push_back(std::move(scratch));
    }
  }

  void plan_batch() {
    latent_attention_.plan(*batch_);
    low_ranks_.plan(*batch_);
    tiles_.clear();
    for (std::size_t table = 0; table < frequencies_.size(); ++table) {
      const RopeTable& rope = program_.plan.ropes[table];
      const std::size_t pairs = rope.frequencies.size();
      for (std::size_t i = 0; rope.frequencies_of && i < batch_->sequences.size(); ++i)
        sequence_frequencies(rope, batch_->sequences[i], std::span(frequencies_[table]).subspan(i * pairs, pairs));
    }
    for (const SequenceSlice& sequence : batch_->sequences) {
      for (int first = 0; first < sequence.count; first += tile_tokens_) {
        tiles_.push_back({&sequence, first, std::min(tile_tokens_, sequence.count - first)});
      }
      for (int i = 0; i < sequence.count; ++i)
        rows_[static_cast<std::size_t>(sequence.first) + static_cast<std::size_t>(i)] = {&sequence, sequence.past + i};
    }
  }

  [[nodiscard]] static std::int64_t group_of(const AttentionOp& op) { return op.heads / op.kv_heads; }
  // The layer whose keys and values it reads.
  [[nodiscard]] static int cached_layer(const AttentionStep& step) {
    return step.op.source >= 0 ? step.op.source : step.layer;
  }
  [[nodiscard]] const LayerCache& cache_of(const AttentionStep& step) const {
    return caches_[static_cast<std::size_t>(cached_layer(step))];
  }
  // Of all layers, the pages of a head and bytes of each.
  template <typename Visit>
  void for_each_head(const Visit& visit) const {
    for (const LayerCache& layer : caches_) {
      for (std::size_t head = 0; head < layer.heads; ++head)
        visit(cache_.data() + (layer.before + head * layer.page_bytes) * pages_, layer.page_bytes);
    }
  }
  static std::byte* page_of(std::byte* pages, std::size_t bytes, std::int32_t page) {
    return pages + static_cast<std::size_t>(page) * bytes;
  }
  [[nodiscard]] float* buffer(BufferId id) const {
    return workspace_.as<float>() + offsets_[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] std::int64_t width(BufferId id) const { return program_.plan.width(id); }
  [[nodiscard]] std::int64_t tokens() const { return static_cast<std::int64_t>(batch_->tokens.size()); }
  [[nodiscard]] bool is_selected(BufferId id) const {
    return program_.plan.buffers[static_cast<std::size_t>(id)].selected;
  }
  [[nodiscard]] std::int64_t rows(BufferId id) const {
    return is_selected(id) ? static_cast<std::int64_t>(batch_->selected.size()) : tokens();
  }

  [[nodiscard]] std::span<const float> frequencies_of(std::size_t table, const SequenceSlice& sequence) const {
    const std::vector<float>& common = program_.plan.ropes[table].frequencies;
    if (frequencies_[table].empty()) return common;
    const auto index = static_cast<std::size_t>(&sequence - batch_->sequences.data());
    return std::span(frequencies_[table]).subspan(index * common.size(), common.size());
  }

  // Angles are products in f32, as in the reference implementation.
  void rope_tables(int thread) {
    for (std::int64_t t = thread; t < tokens(); t += pool_.size()) {
      const auto& [sequence, at] = rows_[static_cast<std::size_t>(t)];
      const auto position = static_cast<float>(at);
      for (std::size_t table = 0; table < ropes_.size(); ++table) {
        const std::span<const float> frequencies = frequencies_of(table, *sequence);
        const float scale = program_.plan.ropes[table].scale;
        float* const cosines = ropes_[table].cosines.data() + t * ropes_[table].pairs;
        float* const sines = ropes_[table].sines.data() + t * ropes_[table].pairs;
        for (std::size_t i = 0; i < frequencies.size(); ++i) {
          const float angle = position * frequencies[i];
          cosines[i] = std::cos(angle) * scale;
          sines[i] = std::sin(angle) * scale;
        }
      }
    }
  }

  void run(const EmbeddingStep& step, const StepContext& context) {
    const std::int64_t n = width(step.out);
    context.share(0, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        step.weight->decode_row(batch_->tokens[static_cast<std::size_t>(t)], buffer(step.out) + t * n);
      }
      if (step.low_ranks != nullptr && low_ranks_.any())
        low_ranks_.embed(context, *step.low_ranks, begin, end, buffer(step.out), n);
    });
  }

  [[nodiscard]] auto norm(NormKind kind) const { return kind == NormKind::kLayer ? k_.layer_norm : k_.rms_norm; }

  void run(const NormStep& step, const StepContext& context) {
    const std::int64_t n = width(step.in);
    context.share(0, rows(step.in), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t at = begin * n; at < end * n; at += step.width) {
        norm(step.kind)(buffer(step.in) + at, step.weight, step.width, step.eps, buffer(step.out) + at);
      }
    });
  }

  static bool wants(const LinearStep& step, LinearInput input) {
    return std::any_of(step.parts.begin(), step.parts.end(),
                       [input](const LinearPart& part) { return part.input == input; });
  }

  // Norm, padding and quantization of rows [begin, end) of a linear's input.
  void prepare_input(const LinearStep& step, std::int64_t begin, std::int64_t end, const LinearInputs& out) {
    const bool want_q8 = wants(step, LinearInput::kQ8);
    const bool want_bf16 = wants(step, LinearInput::kBf16);
    const std::int64_t n = width(step.in);
    const std::int64_t padded = round_up(n, kBlock);
    for (std::int64_t t = begin; t < end; ++t) {
      const float* const x = buffer(step.in) + t * n;
      float* const row = out.f32 + t * padded;
      if (step.norm != nullptr) {
        norm(step.norm_kind)(x, step.norm, n, step.eps, row);
      } else {
        std::memcpy(row, x, static_cast<std::size_t>(n) * sizeof(float));
      }
      if (step.rotation != 0) rotate_blocks(row, n, step.rotation);
      std::fill(row + n, row + padded, 0.0F);
      convert_row(k_, out, t, n, padded, want_q8, want_bf16);
    }
  }

  void run(const LinearStep& step, const StepContext& context) {
    const std::int64_t count = rows(step.in);
    if (count == 0) return;
    const bool few = count <= kFewTokens;
    Scratch& scratch = scratch_[static_cast<std::size_t>(context.thread)];
    const LinearInputs in{(few ? scratch.f32 : f32_).as<float>(), (few ? scratch.q8 : q8_).as<Q8Block>(),
                          (few ? scratch.bf16 : bf16_).as<std::uint16_t>()};
    if (few) {
      prepare_input(step, 0, count, in);
    } else {
      context.share(1, count, 4, [&](std::int64_t begin, std::int64_t end) { prepare_input(step, begin, end, in); });
      pool_.barrier();
    }
    const std::int64_t padded = round_up(width(step.in), kBlock);
    const bool adapted = !step.low_ranks.empty() && low_ranks_.any();
    const auto kind = is_selected(step.in) ? LowRankProducts::Rows::kSelected : LowRankProducts::Rows::kTokens;
    if (adapted) {
      low_ranks_.down(context, 2, step.low_ranks, kind, in.f32, padded);
      pool_.barrier();
    }
    std::int64_t panels = 0;
    for (const LinearPart& part : step.parts) panels += part.matrix->panels();
    const std::int64_t grain = std::max<std::int64_t>(1, panels / (pool_.size() * 8));
    context.share(0, panels, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::int64_t panel = i;
        const LinearPart* part = step.parts.data();
        while (panel >= part->matrix->panels()) panel -= (part++)->matrix->panels();
        LinearTile tile{};
        tile.matrix = &part->matrix->view();
        tile.gate = part->gate == nullptr ? nullptr : &part->gate->view();
        tile.panel = panel;
        tile.tokens = count;
        tile.out = buffer(part->out);
        tile.out_stride = width(part->out);
        tile.bias = part->bias;
        tile.gate_bias = part->gate_bias;
        tile.accumulate = part->accumulate;
        tile.one_order = context.one_order;
        tile.scratch = context.linear_scratch;
        tile.form = part->form;
        if (!adapted) {
          multiply(k_, part->input, in, 0, padded, tile);
          continue;
        }
        const auto first = static_cast<std::size_t>(part - step.parts.data()) * 2;
        multiply_adapted(part->input, in, padded, tile, context, first,
                         std::span(step.low_ranks).subspan(first).first<2>(), kind);
      }
    });
  }

  // One panel's outputs with what adapters add; a gate has its part before it goes into the product.
  void multiply_adapted(LinearInput input, const LinearInputs& in, std::int64_t padded, LinearTile tile,
                        const StepContext& context, std::size_t index, std::span<const LowRankSet* const, 2> sets,
                        LowRankProducts::Rows rows) {
    if (tile.gate == nullptr) {
      multiply(k_, input, in, 0, padded, tile);
      low_ranks_.up(context, sets[0], index, rows, tile);
      return;
    }
    LinearTile gate = tile;
    gate.matrix = tile.gate;
    gate.bias = tile.gate_bias;
    gate.out = low_ranks_.gate();
    gate.gate = tile.gate = nullptr;
    gate.gate_bias = tile.gate_bias = nullptr;
    multiply(k_, input, in, 0, padded, tile);
    multiply(k_, input, in, 0, padded, gate);
    low_ranks_.up(context, sets[0], index, rows, tile);
    low_ranks_.up(context, sets[1], index + 1, rows, gate);
    const std::int64_t first = tile.panel * kPanelRows;
    const std::int64_t count = std::min<std::int64_t>(kPanelRows, tile.matrix->rows - first);
    for (std::int64_t t = 0; t < tile.tokens; ++t) {
      float* const out = tile.out + t * tile.out_stride + first;
      k_.gated(tile.form, gate.out + t * gate.out_stride + first, out, count, out);
    }
  }

  void normalize_heads(float* x, std::int64_t heads, std::int64_t dim, const float* weight, float eps) {
    if (weight == nullptr) return;
    for (std::int64_t h = 0; h < heads; ++h) k_.rms_norm(x + h * dim, weight, dim, eps, x + h * dim);
  }

  [[nodiscard]] std::byte* cache(int layer, std::int64_t head) const {
    const LayerCache& c = caches_[static_cast<std::size_t>(layer)];
    return cache_.data() + (c.before + static_cast<std::size_t>(head) * c.page_bytes) * pages_;
  }

  // x: the token's heads.
  void rotate(const RopeOp& op, float* x, std::int64_t token) {
    const RopeAngles& rope = ropes_[static_cast<std::size_t>(op.rope)];
    const float* const cosines = rope.cosines.data() + token * rope.pairs;
    const float* const sines = rope.sines.data() + token * rope.pairs;
    if (!op.interleaved) return k_.rope(x, op.heads, op.head_dim, rope.pairs, cosines, sines);
    for (std::int64_t h = 0; h < op.heads; ++h) k_.rope_interleaved(x + h * op.head_dim, rope.pairs, cosines, sines);
  }

  void place_token(const AttentionStep& step, std::int64_t t) {
    const AttentionOp& op = step.op;
    float* const q = buffer(op.q) + t * width(op.q);
    normalize_heads(q, op.heads, op.head_dim, step.q_norm, step.eps);
    if (step.q_rope != nullptr) rotate(*step.q_rope, q, t);
    if (op.source >= 0) return;
    float* const k = buffer(op.k) + t * width(op.k);
    const float* const v = buffer(op.v) + t * width(op.v);
    normalize_heads(k, op.kv_heads, op.head_dim, step.k_norm, step.eps);
    if (step.k_rope != nullptr) rotate(*step.k_rope, k, t);
    const TokenPlace& place = rows_[static_cast<std::size_t>(t)];
    const LayerCache& layer = cache_of(step);
    for (std::int64_t h = 0; h < op.kv_heads; ++h) {
      store_token(k_, layer.page, k + h * op.head_dim, v + h * op.head_dim, place.slot(),
                  cache(step.layer, h) + place.page() * layer.page_bytes);
    }
  }

  void run(const AttentionStep& step, const StepContext& context) {
    const AttentionOp& op = step.op;
    context.share(1, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) place_token(step, t);
    });
    pool_.barrier();
    const std::int64_t group = group_of(op);
    const auto tasks = static_cast<std::int64_t>(tiles_.size()) * op.kv_heads;
    context.share(0, tasks, 1, [&](std::int64_t begin, std::int64_t) {
      // Later tiles see more keys: hand them out first.
      const Tile& item = tiles_[tiles_.size() - 1 - static_cast<std::size_t>(begin / op.kv_heads)];
      const std::int64_t head = begin % op.kv_heads;
      const std::int64_t token = item.sequence->first + item.first;
      AttentionTile tile{};
      tile.q = buffer(op.q) + token * width(op.q) + head * group * op.head_dim;
      tile.q_stride = width(op.q);
      tile.out = buffer(op.out) + token * width(op.out) + head * group * op.head_dim;
      tile.out_stride = width(op.out);
      tile.out_head = op.head_dim;
      tile.tokens = item.count;
      tile.group = static_cast<int>(group);
      tile.page = cache_of(step).page;
      tile.scale = op.scale;
      tile.first_position = item.sequence->past + item.first;
      tile.window = op.window;
      tile.soft_cap = op.soft_cap;
      tile.sinks = step.sinks == nullptr ? nullptr : step.sinks + head * group;
      tile.one_order = context.one_order;
      tile.pages = item.sequence->pages.data();
      tile.cache = cache(cached_layer(step), head);
      tile.page_stride = cache_of(step).page_bytes;
      tile.scratch = scratch_[static_cast<std::size_t>(context.thread)].attention.as<float>();
      k_.attention(tile);
    });
  }

  void run(const LatentAttentionStep& step, const StepContext& context) {
    latent_attention_.run(step, context, buffer(step.op.q), buffer(step.op.latent), buffer(step.op.out),
                          cache(step.layer, 0));
  }

  void run(const MoeStep& step, const StepContext& context) {
    experts_.run(step, context, buffer(step.op.in), width(step.op.in), buffer(step.op.logits), buffer(step.op.out),
                 width(step.op.out));
  }

  void run(const RopeOp& step, const StepContext& context) {
    context.share(0, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) rotate(step, buffer(step.x) + t * width(step.x), t);
    });
  }

  void run(const GatedOp& step, const StepContext& context) {
    const std::int64_t n = width(step.out);
    context.share(0, rows(step.out), 4, [&](std::int64_t begin, std::int64_t end) {
      k_.gated(gate_of(step.activation, step.clamp), buffer(step.gate) + begin * n, buffer(step.up) + begin * n,
               (end - begin) * n, buffer(step.out) + begin * n);
    });
  }

  void run(const AddOp& step, const StepContext& context) {
    const std::int64_t n = width(step.x);
    context.share(0, rows(step.x), 4, [&](std::int64_t begin, std::int64_t end) {
      if (step.gate < 0) return k_.add(buffer(step.x) + begin * n, buffer(step.y) + begin * n, (end - begin) * n, 1);
      for (std::int64_t r = begin; r < end; ++r)
        k_.add(buffer(step.x) + r * n, buffer(step.y) + r * n, n, 1 / (1 + std::exp(-buffer(step.gate)[r])));
    });
  }

  void run(const ScaleStep& step, const StepContext& context) {
    const std::int64_t n = width(step.x);
    context.share(0, rows(step.x), 4, [&](std::int64_t begin, std::int64_t end) {
      k_.scale(buffer(step.x) + begin * n, (end - begin) * n, step.factor, step.soft_cap);
    });
  }

  void run(const PositionScaleOp& step, const StepContext& context) {
    const std::int64_t n = width(step.x);
    context.share(0, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        const auto position = static_cast<float>(rows_[static_cast<std::size_t>(t)].position);
        const float factor = 1 + step.beta * std::log(1 + std::floor(position / step.span));
        k_.scale(buffer(step.x) + t * n, n, factor, 0);
      }
    });
  }

  void run(const HadamardOp& step, const StepContext& context) {
    const std::int64_t n = width(step.out);
    context.share(0, rows(step.out), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        float* const out = buffer(step.out) + r * n;
        std::memcpy(out, buffer(step.in) + r * n, static_cast<std::size_t>(n) * sizeof(float));
        rotate_blocks(out, n, step.block);
      }
    });
  }

  void run(const SelectOp& step, const StepContext& context) {
    const std::int64_t n = width(step.in);
    context.share(0, rows(step.out), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const float* const row = buffer(step.in) + batch_->selected[static_cast<std::size_t>(i)] * n;
        std::memcpy(buffer(step.out) + i * n, row, static_cast<std::size_t>(n) * sizeof(float));
      }
    });
  }

  void run(const InputOp& step, const StepContext& context) {
    const std::int64_t n = width(step.out);
    context.share(0, tokens(), 16, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(buffer(step.out) + begin * n, batch_->input + begin * n,
                  static_cast<std::size_t>((end - begin) * n) * sizeof(float));
    });
  }

  void run(const JoinOp& step, const StepContext& context) {
    const std::int64_t first = width(step.first);
    const std::int64_t second = width(step.second);
    context.share(0, rows(step.out), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        float* const out = buffer(step.out) + r * (first + second);
        std::copy_n(buffer(step.first) + r * first, first, out);
        std::copy_n(buffer(step.second) + r * second, second, out + first);
      }
    });
  }

  void run(const SliceOp& step, const StepContext& context) {
    context.share(0, rows(step.out), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        std::copy_n(buffer(step.in) + r * width(step.in) + step.first, width(step.out),
                    buffer(step.out) + r * width(step.out));
    });
  }

  void run(const ObserveOp& step, const StepContext& context) {
    if (context.thread == 0 && batch_->observer != nullptr)
      (*batch_->observer)(step.name, {buffer(step.in), rows(step.in), step.width, width(step.in)});
  }

  const Program& program_;
  const Kernels& k_;
  ThreadPool& pool_;
  std::vector<LayerCache> caches_;
  bool one_order_;
  MixtureOfExperts experts_;
  LowRankProducts low_ranks_;
  LatentAttention latent_attention_;
  std::vector<std::int64_t> offsets_;
  AlignedBuffer workspace_;
  AlignedBuffer q8_;
  AlignedBuffer bf16_;
  AlignedBuffer f32_;
  AlignedBuffer cache_;
  std::size_t pages_ = 0;
  int tile_tokens_ = 1;
  std::vector<RopeAngles> ropes_;
  std::vector<std::vector<float>> frequencies_;  // of each table, for each sequence where they differ
  std::vector<std::atomic<std::int64_t>> counters_;
  std::vector<Tile> tiles_;
  std::vector<TokenPlace> rows_;
  std::vector<Scratch> scratch_;
  const Batch* batch_ = nullptr;
  bool searching_ = false;
  std::optional<std::size_t> not_finite_;  // a step
};

std::unique_ptr<Runner> CpuModel::make_runner(const RunnerLimits& limits, CacheType cache) const {
  WorkspaceMemory memory(WorkspaceMemory::Mode::kGive);
  auto runner = std::make_unique<CpuRunner>(*this, limits, cache, memory);
  runner->grow_cache(limits.pages);
  return runner;
}

std::size_t CpuModel::workspace_bytes(const RunnerLimits& limits, CacheType cache) const {
  WorkspaceMemory memory(WorkspaceMemory::Mode::kMeasure);
  const CpuRunner measured(*this, limits, cache, memory);
  return memory.bytes();
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(std::shared_ptr<ThreadPool> pool, const Kernels& kernels) : pool_(std::move(pool)), kernels_(kernels) {}

  [[nodiscard]] std::string name() const override { return "cpu"; }
  [[nodiscard]] std::string device() const override { return kernels_.name; }
  [[nodiscard]] std::size_t available_memory() const override { return metal_marlin::available_memory(); }
  [[nodiscard]] Capabilities capabilities() const override { return cpu::capabilities(); }
  [[nodiscard]] MemoryEstimate estimate_memory(const Plan& plan, const Checkpoint& checkpoint, Activations activations,
                                               const RunnerLimits& limits, CacheType cache) const override {
    const CpuModel model(outline(with_rotations(plan, checkpoint), checkpoint, kernels_, activations), *pool_, kernels_,
                         activations);
    return {model.weight_bytes(), model.workspace_bytes(limits, cache), cache_bytes(layer_caches(plan, cache))};
  }
  [[nodiscard]] std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint,
                                                             const PrepareOptions& options) const override {
    const auto* const shared = dynamic_cast<const CpuModel*>(options.shared.get());
    return std::make_shared<CpuModel>(
        compile(with_rotations(plan, checkpoint), checkpoint, *pool_, kernels_, options.activations, options.progress,
                shared == nullptr ? nullptr : &shared->program(false), options.adapters),
        *pool_, kernels_, options.activations);
  }

 private:
  std::shared_ptr<ThreadPool> pool_;
  const Kernels& kernels_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(std::shared_ptr<ThreadPool> pool, const Kernels& kernels) {
  return std::make_unique<CpuBackend>(std::move(pool), kernels);
}

}  // namespace metal_marlin::cpu

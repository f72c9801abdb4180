#include "backends/cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "backends/cpu/program.h"
#include "runtime/thread_pool.h"

namespace metal_marlin::cpu {
namespace {

// Up to this many tokens, every thread prepares a linear's input for itself:
// cheaper than meeting at a barrier.
constexpr int kFewTokens = 2;
// Query rows of an attention tile.
constexpr int kAttentionRows = 32;

std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

class CpuModel final : public PreparedModel {
 public:
  CpuModel(Program program, ThreadPool& pool, const Kernels& kernels)
      : program_(std::move(program)), pool_(pool), kernels_(kernels) {}

  [[nodiscard]] std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const override;
  [[nodiscard]] std::size_t weight_bytes() const override {
    std::size_t bytes = 0;
    for (const auto& [name, matrix] : program_.matrices) bytes += matrix->bytes();
    for (const auto& [name, vector] : program_.vectors) bytes += vector.size() * sizeof(float);
    return bytes;
  }
  [[nodiscard]] const Program& program() const { return program_; }
  [[nodiscard]] ThreadPool& pool() const { return pool_; }
  [[nodiscard]] const Kernels& kernels() const { return kernels_; }

 private:
  Program program_;
  ThreadPool& pool_;
  const Kernels& kernels_;
};

class CpuRunner final : public Runner {
 public:
  CpuRunner(const CpuModel& model, const RunnerLimits& limits, CacheType cache)
      : program_(model.program()), k_(model.kernels()), pool_(model.pool()), f16_(cache == CacheType::kF16) {
    const Plan& plan = program_.plan;
    const WorkspaceLayout layout = lay_out(program_, limits);
    offsets_ = layout.offsets;
    workspace_ = AlignedBuffer(static_cast<std::size_t>(layout.floats) * sizeof(float));
    const std::int64_t input_blocks = program_.widest_input / kBlock;
    q8_ = AlignedBuffer(static_cast<std::size_t>(limits.tokens * input_blocks) * sizeof(Q8Block));
    bf16_ = AlignedBuffer(static_cast<std::size_t>(limits.tokens * program_.widest_input) * sizeof(std::uint16_t));
    f32_ = AlignedBuffer(static_cast<std::size_t>(limits.tokens * program_.widest_input) * sizeof(float));
    const std::int64_t half = plan.head_dim / 2;
    cosines_.resize(static_cast<std::size_t>(limits.tokens * half));
    sines_.resize(cosines_.size());
    padded_dim_ = round_up(plan.head_dim, 16);
    tile_bytes_ = static_cast<std::size_t>(plan.head_dim + padded_dim_) * kPageTokens * (f16_ ? 2 : 4);
    pages_ = static_cast<std::size_t>(limits.pages);
    cache_ = AlignedBuffer(estimate_cache_bytes(plan, limits.pages, cache));
    counters_ = std::vector<std::atomic<std::int64_t>>(2 * program_.steps.size() + 1);
    tiles_.reserve(static_cast<std::size_t>(limits.tokens) + static_cast<std::size_t>(limits.sequences));
    rows_.resize(static_cast<std::size_t>(limits.tokens));
    allocate_scratch();
  }

  const float* step(const Batch& batch) override {
    batch_ = &batch;
    plan_batch();
    for (auto& counter : counters_) counter.store(0, std::memory_order_relaxed);
    pool_.run([this](int thread) {
      rope_tables(thread);
      for (std::size_t i = 0; i < program_.steps.size(); ++i) {
        std::visit([&](const auto& step) { run(step, i, thread); }, program_.steps[i]);
        pool_.barrier();
      }
    });
    return buffer(program_.plan.logits);
  }

 private:
  // A run of tokens of one sequence whose queries are answered together.
  struct Tile {
    const SequenceSlice* sequence;
    int first;  // within the slice
    int count;
  };
  struct TokenPlace {
    const SequenceSlice* sequence;
    std::int64_t position;
  };
  struct Scratch {
    AlignedBuffer linear;
    AlignedBuffer attention;
    AlignedBuffer q8;
    AlignedBuffer bf16;
    AlignedBuffer f32;
  };

  void allocate_scratch() {
    std::int64_t attention = 0;
    for (const Step& step : program_.steps) {
      if (const auto* const s = std::get_if<AttentionStep>(&step)) {
        const std::int64_t group = s->op.heads / s->op.kv_heads;
        tile_tokens_ = static_cast<int>(std::max<std::int64_t>(1, kAttentionRows / group));
        attention = std::max(attention, attention_scratch_floats(tile_tokens_ * group, s->op.head_dim, padded_dim_));
      }
    }
    for (int i = 0; i < pool_.size(); ++i) {
      Scratch scratch;
      scratch.linear = AlignedBuffer(static_cast<std::size_t>(program_.linear_scratch) * sizeof(float));
      scratch.attention = AlignedBuffer(static_cast<std::size_t>(attention) * sizeof(float));
      scratch.q8 =
          AlignedBuffer(static_cast<std::size_t>(program_.widest_input / kBlock) * kFewTokens * sizeof(Q8Block));
      scratch.bf16 =
          AlignedBuffer(static_cast<std::size_t>(program_.widest_input) * kFewTokens * sizeof(std::uint16_t));
      scratch.f32 = AlignedBuffer(static_cast<std::size_t>(program_.widest_input) * kFewTokens * sizeof(float));
      scratch_.push_back(std::move(scratch));
    }
  }

  void plan_batch() {
    tiles_.clear();
    for (const SequenceSlice& sequence : batch_->sequences) {
      for (int first = 0; first < sequence.count; first += tile_tokens_) {
        tiles_.push_back({&sequence, first, std::min(tile_tokens_, sequence.count - first)});
      }
      for (int i = 0; i < sequence.count; ++i)
        rows_[static_cast<std::size_t>(sequence.first) + static_cast<std::size_t>(i)] = {&sequence, sequence.past + i};
    }
  }

  [[nodiscard]] float* buffer(BufferId id) const {
    return workspace_.as<float>() + offsets_[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] std::int64_t width(BufferId id) const {
    return program_.plan.buffers[static_cast<std::size_t>(id)].width;
  }
  [[nodiscard]] std::int64_t tokens() const { return static_cast<std::int64_t>(batch_->tokens.size()); }
  [[nodiscard]] std::int64_t rows(BufferId id) const {
    return program_.plan.buffers[static_cast<std::size_t>(id)].selected
               ? static_cast<std::int64_t>(batch_->selected.size())
               : tokens();
  }

  // Hands out [0, n) in chunks; `phase` tells the two loops of a step apart.
  template <typename Body>
  void share(std::size_t step, int phase, std::int64_t n, std::int64_t grain, const Body& body) {
    std::atomic<std::int64_t>& counter = counters_[2 * step + static_cast<std::size_t>(phase)];
    for (std::int64_t begin = counter.fetch_add(grain, std::memory_order_relaxed); begin < n;
         begin = counter.fetch_add(grain, std::memory_order_relaxed)) {
      body(begin, std::min(begin + grain, n));
    }
  }

  // Angles are products in f32, as in the reference implementation.
  void rope_tables(int thread) {
    const std::int64_t half = program_.plan.head_dim / 2;
    for (std::int64_t t = thread; t < tokens(); t += pool_.size()) {
      const auto position = static_cast<float>(rows_[static_cast<std::size_t>(t)].position);
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = position * program_.plan.rope_frequencies[static_cast<std::size_t>(i)];
        cosines_[static_cast<std::size_t>(t * half + i)] = std::cos(angle) * program_.plan.rope_scale;
        sines_[static_cast<std::size_t>(t * half + i)] = std::sin(angle) * program_.plan.rope_scale;
      }
    }
  }

  void run(const EmbeddingStep& step, std::size_t index, int) {
    const std::int64_t n = width(step.out);
    share(index, 0, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        step.weight->decode_row(batch_->tokens[static_cast<std::size_t>(t)], buffer(step.out) + t * n);
      }
    });
  }

  void run(const NormStep& step, std::size_t index, int) {
    const std::int64_t n = width(step.in);
    share(index, 0, rows(step.in), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t at = begin * n; at < end * n; at += step.width) {
        k_.rms_norm(buffer(step.in) + at, step.weight, step.width, step.eps, buffer(step.out) + at);
      }
    });
  }

  // A linear's input in the forms that its parts want, rows of whole blocks.
  struct LinearInputs {
    float* f32;
    Q8Block* q8;
    std::uint16_t* bf16;
  };
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
        k_.rms_norm(x, step.norm, n, step.eps, row);
      } else {
        std::memcpy(row, x, static_cast<std::size_t>(n) * sizeof(float));
      }
      std::fill(row + n, row + padded, 0.0F);
      if (want_q8) k_.quantize_q8(row, n, out.q8 + t * (padded / kBlock));
      if (want_bf16) k_.round_bf16(row, padded, out.bf16 + t * padded);
    }
  }

  void run(const LinearStep& step, std::size_t index, int thread) {
    const std::int64_t count = rows(step.in);
    if (count == 0) return;
    const bool few = count <= kFewTokens;
    Scratch& scratch = scratch_[static_cast<std::size_t>(thread)];
    const LinearInputs in{(few ? scratch.f32 : f32_).as<float>(), (few ? scratch.q8 : q8_).as<Q8Block>(),
                          (few ? scratch.bf16 : bf16_).as<std::uint16_t>()};
    if (few) {
      prepare_input(step, 0, count, in);
    } else {
      share(index, 1, count, 4, [&](std::int64_t begin, std::int64_t end) { prepare_input(step, begin, end, in); });
      pool_.barrier();
    }
    std::int64_t panels = 0;
    for (const LinearPart& part : step.parts) panels += part.matrix->panels();
    const std::int64_t grain = std::max<std::int64_t>(1, panels / (pool_.size() * 8));
    const std::int64_t padded = round_up(width(step.in), kBlock);
    share(index, 0, panels, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::int64_t panel = i;
        const LinearPart* part = step.parts.data();
        while (panel >= part->matrix->panels()) panel -= (part++)->matrix->panels();
        const LinearTile tile{&part->matrix->view(),
                              part->gate == nullptr ? nullptr : &part->gate->view(),
                              panel,
                              count,
                              in.q8,
                              in.f32,
                              in.bf16,
                              part->input == LinearInput::kQ8 ? padded / kBlock : padded,
                              buffer(part->out),
                              width(part->out),
                              part->bias,
                              part->gate_bias,
                              part->accumulate,
                              scratch.linear.as<float>()};
        switch (part->input) {
          case LinearInput::kQ8: k_.linear_q8(tile); break;
          case LinearInput::kBf16: k_.linear_bf16(tile); break;
          case LinearInput::kF32: k_.linear_f32(tile); break;
        }
      }
    });
  }

  void normalize_heads(float* x, std::int64_t heads, std::int64_t dim, const float* weight, float eps) {
    if (weight == nullptr) return;
    for (std::int64_t h = 0; h < heads; ++h) k_.rms_norm(x + h * dim, weight, dim, eps, x + h * dim);
  }

  [[nodiscard]] std::byte* cache(int layer, std::int64_t head) const {
    const auto index = static_cast<std::size_t>(layer * program_.plan.kv_heads + head);
    return cache_.data() + index * pages_ * tile_bytes_;
  }

  void rotate(float* x, std::int64_t heads, std::int64_t dim, std::int64_t token) {
    const std::int64_t half = dim / 2;
    k_.rope(x, heads, dim, cosines_.data() + token * half, sines_.data() + token * half);
  }

  void place_token(const AttentionStep& step, std::int64_t t) {
    const AttentionOp& op = step.op;
    float* const q = buffer(op.q) + t * width(op.q);
    float* const k = buffer(op.k) + t * width(op.k);
    const float* const v = buffer(op.v) + t * width(op.v);
    normalize_heads(q, op.heads, op.head_dim, step.q_norm, step.eps);
    normalize_heads(k, op.kv_heads, op.head_dim, step.k_norm, step.eps);
    if (step.rope_q) rotate(q, op.heads, op.head_dim, t);
    if (step.rope_k) rotate(k, op.kv_heads, op.head_dim, t);
    const TokenPlace& place = rows_[static_cast<std::size_t>(t)];
    const auto page =
        static_cast<std::size_t>(place.sequence->pages[static_cast<std::size_t>(place.position / kPageTokens)]);
    const int slot = static_cast<int>(place.position % kPageTokens);
    for (std::int64_t h = 0; h < op.kv_heads; ++h) {
      k_.store_kv(k + h * op.head_dim, v + h * op.head_dim, slot, static_cast<int>(op.head_dim),
                  static_cast<int>(padded_dim_), f16_, cache(op.layer, h) + page * tile_bytes_);
    }
  }

  void run(const AttentionStep& step, std::size_t index, int thread) {
    const AttentionOp& op = step.op;
    share(index, 1, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) place_token(step, t);
    });
    pool_.barrier();
    const std::int64_t group = op.heads / op.kv_heads;
    const auto tasks = static_cast<std::int64_t>(tiles_.size()) * op.kv_heads;
    share(index, 0, tasks, 1, [&](std::int64_t begin, std::int64_t) {
      // Later tiles see more keys: hand them out first.
      const Tile& item = tiles_[tiles_.size() - 1 - static_cast<std::size_t>(begin / op.kv_heads)];
      const std::int64_t head = begin % op.kv_heads;
      const std::int64_t token = item.sequence->first + item.first;
      const AttentionTile tile{buffer(op.q) + token * width(op.q) + head * group * op.head_dim,
                               width(op.q),
                               buffer(op.out) + token * width(op.out) + head * group * op.head_dim,
                               width(op.out),
                               item.count,
                               static_cast<int>(group),
                               static_cast<int>(op.head_dim),
                               static_cast<int>(padded_dim_),
                               op.scale,
                               item.sequence->past + item.first,
                               op.window,
                               item.sequence->pages.data(),
                               cache(op.layer, head),
                               tile_bytes_,
                               f16_,
                               scratch_[static_cast<std::size_t>(thread)].attention.as<float>()};
      k_.attention(tile);
    });
  }

  void run(const RopeStep& step, std::size_t index, int) {
    share(index, 0, tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t)
        rotate(buffer(step.x) + t * width(step.x), step.heads, step.head_dim, t);
    });
  }

  void run(const SwigluStep& step, std::size_t index, int) {
    const std::int64_t n = width(step.out);
    share(index, 0, rows(step.out), 4, [&](std::int64_t begin, std::int64_t end) {
      k_.swiglu(buffer(step.gate) + begin * n, buffer(step.up) + begin * n, (end - begin) * n,
                buffer(step.out) + begin * n);
    });
  }

  void run(const AddStep& step, std::size_t index, int) {
    const std::int64_t n = width(step.x);
    share(index, 0, rows(step.x), 4, [&](std::int64_t begin, std::int64_t end) {
      k_.add(buffer(step.x) + begin * n, buffer(step.y) + begin * n, (end - begin) * n);
    });
  }

  void run(const SelectStep& step, std::size_t index, int) {
    const std::int64_t n = width(step.in);
    share(index, 0, rows(step.out), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const float* const row = buffer(step.in) + batch_->selected[static_cast<std::size_t>(i)] * n;
        std::memcpy(buffer(step.out) + i * n, row, static_cast<std::size_t>(n) * sizeof(float));
      }
    });
  }

  const Program& program_;
  const Kernels& k_;
  ThreadPool& pool_;
  bool f16_;
  std::vector<std::int64_t> offsets_;
  AlignedBuffer workspace_;
  AlignedBuffer q8_;
  AlignedBuffer bf16_;
  AlignedBuffer f32_;
  AlignedBuffer cache_;
  std::size_t pages_ = 0;
  std::size_t tile_bytes_ = 0;
  std::int64_t padded_dim_ = 0;
  int tile_tokens_ = 1;
  std::vector<float> cosines_;
  std::vector<float> sines_;
  std::vector<std::atomic<std::int64_t>> counters_;
  std::vector<Tile> tiles_;
  std::vector<TokenPlace> rows_;
  std::vector<Scratch> scratch_;
  const Batch* batch_ = nullptr;
};

std::unique_ptr<Runner> CpuModel::make_runner(const RunnerLimits& limits, CacheType cache) const {
  return std::make_unique<CpuRunner>(*this, limits, cache);
}

}  // namespace

std::shared_ptr<const PreparedModel> prepare(Plan plan, const Checkpoint& checkpoint, ThreadPool& pool,
                                             const PrepareOptions& options) {
  const Kernels& kernels = options.kernels != nullptr ? *options.kernels : *available_kernels().front();
  return std::make_shared<CpuModel>(
      compile(std::move(plan), checkpoint, pool, kernels, options.activations, options.progress), pool, kernels);
}

std::size_t estimate_weight_bytes(const Plan& plan, const Checkpoint& checkpoint) {
  std::size_t bytes = 0;
  for (const PlannedWeight& planned : planned_weights(plan)) {
    const WeightInfo* const info = checkpoint.find(planned.name);
    if (info != nullptr) bytes += panel_bytes_estimate(*info);
  }
  return bytes;
}

std::size_t estimate_cache_bytes(const Plan& plan, int pages, CacheType cache) {
  const std::int64_t padded = round_up(plan.head_dim, 16);
  return static_cast<std::size_t>((plan.head_dim + padded) * plan.kv_heads * plan.layers) *
         static_cast<std::size_t>(pages) * kPageTokens * (cache == CacheType::kF16 ? 2 : 4);
}

}  // namespace metal_marlin::cpu

#include "backends/cpu/latent_attention.h"

#include <cstring>
#include <numeric>

#include "backends/cpu/cache_rows.h"
#include "base/round_up.h"

namespace metal_marlin::cpu {
namespace {

// Heads that read the cache together in latent space.
constexpr std::int64_t kHeadGroup = 4;
// Tokens that share a reading of the weights, and a page of expanded keys.
constexpr int kTileTokens = kCachePageTokens;

}  // namespace

LatentAttention::LatentAttention(const Program& program, const RunnerLimits& limits, const CachePage& page, int threads,
                                 WorkspaceMemory& memory)
    : page_(page), absorbs_all_(limits.one_order) {
  const LatentAttentionOp* shape = nullptr;  // the same in every layer
  std::int64_t transposed = 0;
  for (const Step& step : program.steps) {
    const auto* const s = std::get_if<LatentAttentionStep>(&step);
    if (s == nullptr) continue;
    shape = &s->op;
    for (const auto& keys : s->heads->keys) transposed = std::max(transposed, transposed_scratch_floats(keys->view()));
  }
  if (shape == nullptr) return;
  const std::int64_t key_dim = shape->nope_dim + shape->rope_dim;
  expanded_ = {static_cast<int>(key_dim), static_cast<int>(shape->value_dim), false,
               page.type == CacheType::kF32 ? CacheType::kF32 : CacheType::kF16};
  padded_rank_ = round_up(shape->rank, kBlock);
  head_pages_ = limits.tokens / kCachePageTokens + limits.sequences;
  page_table_ = memory.take_vector<std::int32_t>(static_cast<std::size_t>(head_pages_));
  std::iota(page_table_.begin(), page_table_.end(), 0);
  const std::int64_t tokens = limits.tokens;
  const auto floats = [&](std::int64_t n) { return memory.take(static_cast<std::size_t>(n) * sizeof(float)); };
  latents_ = floats(tokens * padded_rank_);
  absorbed_q_ = floats(tokens * shape->heads * page.key_dim);
  absorbed_out_ = floats(tokens * shape->heads * padded_rank_);
  if (absorbed_out_.size() > 0)
    std::memset(absorbed_out_.data(), 0, absorbed_out_.size());  // padding that attention does not write
  scratch_pages_ = memory.take(static_cast<std::size_t>(shape->heads * head_pages_) * page_bytes(expanded_));
  const std::int64_t scratch = std::max({transposed, kTileTokens * (key_dim + shape->value_dim),
                                         attention_scratch_floats(kTileTokens, expanded_),
                                         attention_scratch_floats(kHeadGroup * kTileTokens, page_)});
  for (int i = 0; i < threads; ++i) scratch_.push_back(floats(scratch));
  const auto tiles = static_cast<std::size_t>(head_pages_);
  page_tiles_ = memory.take_vector<Tile>(tiles);
  absorbed_tiles_ = memory.take_vector<Tile>(tiles);
}

void LatentAttention::plan(const Batch& batch) {
  if (head_pages_ == 0) return;  // the model has none
  page_tiles_.clear();
  absorbed_tiles_.clear();
  std::int64_t pages = 0;
  for (const SequenceSlice& sequence : batch.sequences) {
    const std::int64_t first_page = pages;
    for (int first = 0; first < sequence.count; first += kTileTokens) {
      const int count = std::min(kTileTokens, sequence.count - first);
      if (sequence.past > 0 || absorbs_all_) {
        absorbed_tiles_.push_back({&sequence, first, count});
      } else {
        page_tiles_.push_back({&sequence, first, count, first_page});
        ++pages;
      }
    }
  }
}

void LatentAttention::place(const LatentAttentionStep& step, const StepContext& context, float* q, float* latent,
                            std::byte* cache, std::int64_t token) {
  const LatentAttentionOp& op = step.op;
  const Kernels& k = context.kernels;
  const RopeAngles& rope = context.ropes[static_cast<std::size_t>(op.rope)];
  const float* const cosines = rope.cosines.data() + token * rope.pairs;
  const float* const sines = rope.sines.data() + token * rope.pairs;
  const auto rotate = [&](float* x) {
    if (op.interleaved) {
      k.rope_interleaved(x, op.rope_dim / 2, cosines, sines);
    } else {
      k.rope(x, 1, op.rope_dim, op.rope_dim / 2, cosines, sines);
    }
  };
  const std::int64_t key_dim = op.nope_dim + op.rope_dim;
  for (std::int64_t h = 0; h < op.heads; ++h) rotate(q + (token * op.heads + h) * key_dim + op.nope_dim);
  float* const row = latent + token * (op.rank + op.rope_dim);
  k.rms_norm(row, step.norm, op.rank, op.norm_eps, row);
  rotate(row + op.rank);
  float* const padded = latents_.as<float>() + token * padded_rank_;
  std::memcpy(padded, row, static_cast<std::size_t>(op.rank) * sizeof(float));
  std::fill(padded + op.rank, padded + padded_rank_, 0.0F);
  const TokenPlace& place = context.places[static_cast<std::size_t>(token)];
  store_token(k, page_, row, nullptr, place.slot(), cache + place.page() * page_bytes(page_));
}

// A page of one head's keys and values.
void LatentAttention::expand(const LatentAttentionStep& step, const StepContext& context, const float* latent,
                             const Tile& tile, std::int64_t head) {
  const LatentAttentionOp& op = step.op;
  const std::int64_t token = tile.sequence->first + tile.first;
  const std::int64_t key_dim = op.nope_dim + op.rope_dim;
  float* const keys = scratch_[static_cast<std::size_t>(context.thread)].as<float>();
  float* const values = keys + kTileTokens * key_dim;
  const LinearInputs rows{latents_.as<float>(), nullptr, nullptr};
  const auto run = [&](const PanelMatrix& matrix, float* out, std::int64_t stride) {
    for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) {
      LinearTile linear{};
      linear.matrix = &matrix.view();
      linear.panel = panel;
      linear.tokens = tile.count;
      linear.out = out;
      linear.out_stride = stride;
      linear.scratch = context.linear_scratch;
      linear.one_order = context.one_order;
      multiply(context.kernels, LinearInput::kF32, rows, token, padded_rank_, linear);
    }
  };
  run(*step.heads->keys[static_cast<std::size_t>(head)], keys, key_dim);
  run(*step.heads->values[static_cast<std::size_t>(head)], values, op.value_dim);
  std::byte* const page =
      scratch_pages_.data() +
      static_cast<std::size_t>(head * head_pages_ + tile.page + tile.first / kCachePageTokens) * page_bytes(expanded_);
  for (int t = 0; t < tile.count; ++t) {
    float* const key = keys + t * key_dim;
    std::memcpy(key + op.nope_dim, latent + (token + t) * (op.rank + op.rope_dim) + op.rank,
                static_cast<std::size_t>(op.rope_dim) * sizeof(float));
    context.kernels.store_kv(expanded_, key, values + t * op.value_dim, t, page);
  }
}

// One head's queries in latent space.
void LatentAttention::absorb(const LatentAttentionStep& step, const StepContext& context, const float* q,
                             const Tile& tile, std::int64_t head) {
  const LatentAttentionOp& op = step.op;
  const std::int64_t token = tile.sequence->first + tile.first;
  const std::int64_t key_dim = op.nope_dim + op.rope_dim;
  const float* const from = q + (token * op.heads + head) * key_dim;
  float* const to = absorbed_q_.as<float>() + (token * op.heads + head) * page_.key_dim;
  TransposedTile transposed{};
  transposed.matrix = &step.heads->keys[static_cast<std::size_t>(head)]->view();
  transposed.tokens = tile.count;
  transposed.x = from;
  transposed.x_stride = op.heads * key_dim;
  transposed.out = to;
  transposed.out_stride = op.heads * page_.key_dim;
  transposed.scratch = scratch_[static_cast<std::size_t>(context.thread)].as<float>();
  context.kernels.linear_transposed(transposed);
  for (int t = 0; t < tile.count; ++t) {
    std::memcpy(to + t * transposed.out_stride + op.rank, from + t * transposed.x_stride + op.nope_dim,
                static_cast<std::size_t>(op.rope_dim) * sizeof(float));
  }
}

void LatentAttention::attend_expanded(const LatentAttentionStep& step, const StepContext& context, const float* q,
                                      float* out, const Tile& tile, std::int64_t head) {
  const LatentAttentionOp& op = step.op;
  const std::int64_t token = tile.sequence->first + tile.first;
  AttentionTile attention{};
  attention.q_stride = op.heads * expanded_.key_dim;
  attention.q = q + token * attention.q_stride + head * expanded_.key_dim;
  attention.out_stride = op.heads * op.value_dim;
  attention.out_head = op.value_dim;
  attention.out = out + token * attention.out_stride + head * op.value_dim;
  attention.tokens = tile.count;
  attention.group = 1;
  attention.page = expanded_;
  attention.scale = op.scale;
  attention.first_position = tile.first;
  attention.pages = page_table_.data();
  attention.page_stride = page_bytes(expanded_);
  attention.cache =
      scratch_pages_.data() + static_cast<std::size_t>(head * head_pages_ + tile.page) * page_bytes(expanded_);
  attention.scratch = scratch_[static_cast<std::size_t>(context.thread)].as<float>();
  context.kernels.attention(attention);
}

void LatentAttention::attend_absorbed(const LatentAttentionStep& step, const StepContext& context, const Tile& tile,
                                      std::int64_t head, const std::byte* cache) {
  const LatentAttentionOp& op = step.op;
  const std::int64_t token = tile.sequence->first + tile.first;
  AttentionTile attention{};
  attention.q_stride = op.heads * page_.key_dim;
  attention.q = absorbed_q_.as<float>() + token * attention.q_stride + head * page_.key_dim;
  attention.out_stride = op.heads * padded_rank_;
  attention.out_head = padded_rank_;
  attention.out = absorbed_out_.as<float>() + token * attention.out_stride + head * padded_rank_;
  attention.tokens = tile.count;
  attention.group = static_cast<int>(std::min(kHeadGroup, op.heads - head));
  attention.page = page_;
  attention.scale = op.scale;
  attention.first_position = tile.sequence->past + tile.first;
  attention.pages = tile.sequence->pages.data();
  attention.cache = cache;
  attention.page_stride = page_bytes(page_);
  attention.scratch = scratch_[static_cast<std::size_t>(context.thread)].as<float>();
  context.kernels.attention(attention);
}

void LatentAttention::project_values(const LatentAttentionStep& step, const StepContext& context, float* out,
                                     const Tile& tile, std::int64_t head) {
  const LatentAttentionOp& op = step.op;
  const std::int64_t token = tile.sequence->first + tile.first;
  const PanelMatrix& matrix = *step.heads->values[static_cast<std::size_t>(head)];
  for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) {
    LinearTile linear{};
    linear.matrix = &matrix.view();
    linear.panel = panel;
    linear.tokens = tile.count;
    linear.x_stride = op.heads * padded_rank_;
    linear.x = absorbed_out_.as<float>() + (token * op.heads + head) * padded_rank_;
    linear.out_stride = op.heads * op.value_dim;
    linear.out = out + (token * op.heads + head) * op.value_dim;
    linear.scratch = context.linear_scratch;
    linear.one_order = context.one_order;
    context.kernels.linear_f32(linear);
  }
}

void LatentAttention::run(const LatentAttentionStep& step, const StepContext& context, float* q, float* latent,
                          float* out, std::byte* cache) {
  const std::int64_t heads = step.op.heads;
  context.share(0, context.tokens(), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) place(step, context, q, latent, cache, t);
  });
  context.barrier();
  const auto expanded = static_cast<std::int64_t>(page_tiles_.size());
  const auto absorbed = static_cast<std::int64_t>(absorbed_tiles_.size());
  context.share(1, (expanded + absorbed) * heads, 1, [&](std::int64_t i, std::int64_t) {
    const std::int64_t tile = i / heads;
    if (tile < expanded) {
      expand(step, context, latent, page_tiles_[static_cast<std::size_t>(tile)], i % heads);
    } else {
      absorb(step, context, q, absorbed_tiles_[static_cast<std::size_t>(tile - expanded)], i % heads);
    }
  });
  context.barrier();
  // Later tiles see more keys: hand them out first.
  context.share(2, expanded * heads, 1, [&](std::int64_t i, std::int64_t) {
    attend_expanded(step, context, q, out, page_tiles_[static_cast<std::size_t>(expanded - 1 - i / heads)], i % heads);
  });
  const std::int64_t groups = divide_up(heads, kHeadGroup);
  context.share(3, absorbed * groups, 1, [&](std::int64_t i, std::int64_t) {
    attend_absorbed(step, context, absorbed_tiles_[static_cast<std::size_t>(absorbed - 1 - i / groups)],
                    i % groups * kHeadGroup, cache);
  });
  context.barrier();
  context.share(4, absorbed * heads, 1, [&](std::int64_t i, std::int64_t) {
    project_values(step, context, out, absorbed_tiles_[static_cast<std::size_t>(i / heads)], i % heads);
  });
}

}  // namespace metal_marlin::cpu

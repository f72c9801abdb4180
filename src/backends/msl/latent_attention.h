// Multi-head latent attention (arXiv 2405.04434) on a device: queries go to latent space,
// where they attend to the cache of latents (shaders/mla_proj.metal, paged_attention.metal).
#pragma once

#include "backends/msl/matrix_stack.h"
#include "backends/msl/paged_attention.h"
#include "ops/plan.h"

namespace metal_marlin::msl {

// Memory that it works in, made once for the largest batch.
class LatentWorkspace {
 public:
  LatentWorkspace(Device& device, const LatentAttentionOp& op, std::int64_t max_tokens);
  [[nodiscard]] const LinearWorkspace& linear() const { return linear_; }
  [[nodiscard]] Buffer& queries() const { return *queries_; }  // f32 [tokens][heads][rank + rope_dim]
  [[nodiscard]] Buffer& sums() const { return *sums_; }        // f32 [tokens][heads][rank]

 private:
  LinearWorkspace linear_;
  std::unique_ptr<Buffer> queries_;
  std::unique_ptr<Buffer> sums_;
};

struct LatentCall {
  Buffer* q = nullptr;       // f32 [tokens][heads][nope_dim + rope_dim]
  Buffer* latent = nullptr;  // f32 [tokens][rank + rope_dim]
  Buffer* out = nullptr;     // f32 [tokens][heads][value_dim]
  std::int64_t tokens = 0;
  Buffer* norm = nullptr;         // f32 [rank]
  Buffer* frequencies = nullptr;  // f32 [rope_dim / 2]
  float rope_scale = 1;
  CacheType cache = CacheType::kF32;
  PagedBuffers paged;
  std::uint32_t table_stride = 0;
  std::uint32_t splits = 1;  // as PagedParams::splits, split_keys
  std::uint32_t split_keys = 0;
};

// Of the attention in latent space, but for splits.
PagedParams latent_paged_params(const LatentAttentionOp& op);

class LatentAttention {
 public:
  // expand: [heads * (nope_dim + value_dim), rank]. Its key half is held transposed: as it is
  // where it is f16 or bf16, else in f32 for the exact mode and in f16 for the other.
  LatentAttention(Device& device, const LatentAttentionOp& op, const Weight& expand, Activations mode,
                  ThreadPool& pool);

  void encode(Commands& commands, const LatentCall& call, const LatentWorkspace& workspace) const;
  [[nodiscard]] std::size_t bytes() const { return keys_.bytes() + values_.bytes(); }
  // Of one whose expansion is of this kind.
  static std::size_t bytes_of(const LatentAttentionOp& op, const WeightInfo& expand, Activations mode);

 private:
  Device& device_;
  LatentAttentionOp op_;
  Activations mode_;
  MatrixStack keys_;
  MatrixStack values_;
};

}  // namespace metal_marlin::msl

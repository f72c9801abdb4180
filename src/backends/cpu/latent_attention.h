// Multi-head latent attention (arXiv 2405.04434) on the CPU. Sequences that
// begin in this batch expand their latents to keys and values; those with a past
// stay in latent space: queries are multiplied by the key expansion, attention's
// sums of latents by the value expansion. Both give the same result.
#pragma once

#include <vector>

#include "backends/cpu/program.h"
#include "backends/cpu/step_context.h"

namespace metal_marlin::cpu {

// The workspace of all such steps of a model, one step at a time.
class LatentAttention {
 public:
  LatentAttention(const Program& program, const RunnerLimits& limits, const CachePage& page, int threads);

  // Sorts the batch's sequences; before the step's threads start.
  void plan(const Batch& batch);
  // Called by every thread. cache: the layer's pages.
  void run(const LatentAttentionStep& step, const StepContext& context, float* q, float* latent, float* out,
           std::byte* cache);

 private:
  // Some consecutive tokens of a sequence.
  struct Tile {
    const SequenceSlice* sequence;
    int first;  // within the slice
    int count;
    std::int64_t page = 0;  // of expanded sequences: their first in the scratch pages
  };
  void place(const LatentAttentionStep& step, const StepContext& context, float* q, float* latent, std::byte* cache,
             std::int64_t token);
  void expand(const LatentAttentionStep& step, const StepContext& context, const float* latent, const Tile& tile,
              std::int64_t head);
  void absorb(const LatentAttentionStep& step, const StepContext& context, const float* q, const Tile& tile,
              std::int64_t head);
  void attend_expanded(const LatentAttentionStep& step, const StepContext& context, const float* q, float* out,
                       const Tile& tile, std::int64_t head);
  void attend_absorbed(const LatentAttentionStep& step, const StepContext& context, const Tile& tile, std::int64_t head,
                       const std::byte* cache);
  void project_values(const LatentAttentionStep& step, const StepContext& context, float* out, const Tile& tile,
                      std::int64_t head);

  CachePage page_;      // of latents
  bool absorbs_all_;    // sequences without a past too
  CachePage expanded_;  // of a head's keys and values
  std::int64_t padded_rank_ = 0;
  std::int64_t head_pages_ = 0;           // scratch pages a head
  std::vector<Tile> page_tiles_;          // pages of sequences to expand
  std::vector<Tile> absorbed_tiles_;      // tokens of sequences with a past
  std::vector<std::int32_t> page_table_;  // 0, 1, ...
  AlignedBuffer latents_;                 // [tokens][padded rank], normalised
  AlignedBuffer absorbed_q_;              // [tokens][heads][rank + rope_dim]
  AlignedBuffer absorbed_out_;            // [tokens][heads][padded rank]
  AlignedBuffer scratch_pages_;           // [heads][head_pages_]
  std::vector<AlignedBuffer> scratch_;    // by thread
};

}  // namespace metal_marlin::cpu

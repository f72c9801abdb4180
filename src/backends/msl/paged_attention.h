// Attention over a paged key-value cache on a device: by tokens, prefill and decode alike
// (shaders/paged_attention.metal), or by tiles of neighbouring queries, which share the keys that they
// read (simdgroup_attention.metal, flash_attention_v2.metal).
#pragma once

#include <span>

#include "backends/backend.h"
#include "backends/msl/attention.h"
#include "backends/msl/device.h"
#include "common/paged_attention_params.h"

namespace metal_marlin::msl {

struct PagedBuffers {
  Buffer* keys = nullptr;       // [pages][kv heads][page tokens] rows
  Buffer* values = nullptr;     // likewise; not read where latent
  Buffer* tables = nullptr;     // i32 [sequences][table_stride]: pages
  Buffer* sequences = nullptr;  // i32 [tokens]: rows of the table
  Buffer* positions = nullptr;  // i32 [tokens]
  Buffer* sinks = nullptr;      // f32 [heads], or null
  Buffer* partial = nullptr;    // paged_partial_bytes(), where there are splits
};

// How a call by tokens is answered.
struct PagedWay {
  bool matrices;           // on the matrix units
  std::uint32_t at_once;   // heads of a threadgroup
  std::uint32_t groups;    // of heads that share keys
  std::uint32_t resident;  // threadgroups that a core holds side by side
};
PagedWay paged_way(const PagedParams& params, DType type, CacheType cache);
// Into how many splits keys should be cut so that a device is kept busy, at most `most`.
std::uint32_t paged_splits(const Device& device, const PagedParams& params, DType type, CacheType cache,
                           std::int64_t tokens, std::uint32_t most);
std::size_t paged_partial_bytes(const PagedParams& params, std::int64_t tokens);

// Puts the keys and values of new tokens, of `type`, into the cache. Quantized caches take f32.
void encode_store_kv(Device& device, Commands& commands, const PagedParams& params, DType type, CacheType cache,
                     std::int64_t tokens, Buffer& k, Buffer& v, const PagedBuffers& buffers);

// Each query sees the keys up to its own position; grouped when kv_heads < heads
// (arXiv 2305.13245). \throws Error (kInvalidArgument, kUnsupported) naming the parameter.
void encode_paged_attention(Device& device, Commands& commands, const PagedParams& params, DType type, CacheType cache,
                            std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers);

// Tiles of queries. Sequences are rows of the page tables; their tokens follow one another.
struct PagedTiles {
  std::int64_t sequences = 0;
  Buffer* q_starts = nullptr;  // i32 [sequences + 1]: of their tokens
  Buffer* k_starts = nullptr;  // i32 [sequences + 1]: of their keys, as if these followed one another too
};
// Whether there are kernels for it by tiles.
bool has_tiles(const Device& device, const PagedParams& params, CacheType cache);
// Whether a batch costs less by tiles than by tokens with params.splits, where there are kernels for it by tiles:
// of f32 queries, without latents. Many tokens of one sequence do; of few, or with few heads, tiles leave a device
// idle and themselves mostly empty.
bool tiles_cost_less(const Device& device, const PagedParams& params, CacheType cache,
                     std::span<const SequenceSlice> batch);
// As encode_paged_attention, of f32. \throws Error (kUnsupported) where there is no kernel for it.
void encode_paged_tiles(Device& device, Commands& commands, const PagedParams& params, CacheType cache,
                        std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers,
                        const PagedTiles& tiles);

}  // namespace metal_marlin::msl

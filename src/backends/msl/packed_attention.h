// Attention over keys and values that lie side by side, on a device: in three steps
// (shaders/attention.metal), fused query by query (flash_attention.metal) and by tiles of
// queries (flash_attention_v2.metal, simdgroup_attention.metal), differential (diff_attention.metal).
#pragma once

#include "backends/msl/attention.h"
#include "backends/msl/device.h"
#include "common/packed_attention_params.h"

namespace metal_marlin::msl {

// Sequences packed one after another. A query that sees no key, or has all of them masked,
// is answered by zeros.
struct PackedBatch {
  std::int64_t queries = 0;
  Buffer* q = nullptr;              // [queries][heads][key_width]
  Buffer* keys = nullptr;           // [keys][kv_heads] rows of key_width
  Buffer* values = nullptr;         // [keys][kv_heads] rows of value_width
  Buffer* out = nullptr;            // [queries][heads][value_width]
  Buffer* sequences = nullptr;      // i32 [queries]: whose
  Buffer* q_starts = nullptr;       // i32 [sequences + 1]
  Buffer* k_starts = nullptr;       // i32 [sequences + 1]
  std::int64_t sequence_count = 0;  // needed by tiles of queries
  Buffer* mask = nullptr;           // f32 [queries][mask_stride], added to the scores of the sequence's keys; or null
  Buffer* sinks = nullptr;          // f32 [heads], or null
};

// q and out of `type`, keys and values of `cache`: both f32, f16 or bf16; where they differ
// the type is f32. \throws Error (kInvalidArgument, kUnsupported) naming the parameter.
void encode_flash_attention(Device& device, Commands& commands, const PackedParams& params, DType type, CacheType cache,
                            const PackedBatch& batch);
// Block-sparse attention: of a sequence's own queries and keys, blocks of `size`.
struct AttentionBlocks {
  Buffer* map = nullptr;  // u8 [query blocks][stride]: zero for blocks that nobody looks at; null: dense
  std::uint32_t size = 0;
  std::uint32_t stride = 0;
};
// Queries that a threadgroup of flash_attention_v2 answers, as FlashTile has them; width: that of its kernel's name.
std::int64_t flash_tile_queries(std::uint32_t width);
// The same by tiles of queries, for prefill: in f32, any kind of cache.
void encode_flash_attention_v2(Device& device, Commands& commands, const PackedParams& params, DType type,
                               CacheType cache, const PackedBatch& batch, const AttentionBlocks& blocks = {});
// And on the matrix units: q, keys, values and out all f16 or bf16, heads of at most 192.
void encode_simdgroup_attention(Device& device, Commands& commands, const PackedParams& params, DType type,
                                const PackedBatch& batch, const AttentionBlocks& blocks = {});
// The same in three steps. scores: f32 [queries][heads][stride], stride at least the keys of the
// longest sequence; holds the weights in the end.
void encode_attention(Device& device, Commands& commands, const PackedParams& params, DType type, CacheType cache,
                      const PackedBatch& batch, Buffer& scores, std::uint32_t stride);

// Rows of `width` numbers (f32) as keys or values of a cache.
void encode_store_rows(Device& device, Commands& commands, CacheType cache, std::int64_t rows, std::int64_t width,
                       Buffer& x, Buffer& out);

// Differential attention (arXiv 2410.05258): out = softmax(q1 k1) v - lambda softmax(q2 k2) v.
// q and keys have two of key_width, one after the other, in each head.
struct DiffOptions {
  Buffer* lambdas = nullptr;  // f32 [heads]
  Buffer* norm = nullptr;     // f32 [value_width]: weight of a head's RMS norm, or null: none
  float eps = 1e-5F;
  float factor = 1;  // on what was normed: 1 - lambda's initial value
};
void encode_diff_attention(Device& device, Commands& commands, const PackedParams& params, DType type,
                           const PackedBatch& batch, const DiffOptions& options);

}  // namespace metal_marlin::msl

// Attention over a paged key-value cache on a device: prefill and decode alike.
#pragma once

#include "backends/msl/device.h"
#include "io/dtype.h"

namespace metal_marlin::msl {

// As PagedParams in shaders/paged_attention.metal.
struct PagedParams {
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;  // at most 256
  std::uint32_t page_tokens = 16;
  std::uint32_t table_stride = 0;  // pages of a sequence in the table
  std::uint32_t q_stride = 0;      // elements between tokens
  std::uint32_t kv_stride = 0;
  std::uint32_t out_stride = 0;
  std::uint32_t window = 0;  // keys that a query sees, itself included; 0: all
  float scale = 1;
  float soft_cap = 0;  // scores become cap * tanh(score / cap); 0: none
  std::uint32_t sinks = 0;
};

struct PagedBuffers {
  Buffer* keys = nullptr;  // [pages][kv heads][page_tokens][head_dim] from `offset` on
  Buffer* values = nullptr;
  std::size_t offset = 0;
  Buffer* tables = nullptr;     // i32 [sequences][table_stride]: pages
  Buffer* sequences = nullptr;  // i32 [tokens]: rows of the table
  Buffer* positions = nullptr;  // i32 [tokens]
  Buffer* sinks = nullptr;      // f32 [heads], or null
};

// Puts the keys and values of new tokens, [tokens][kv_stride] of `type`, into the cache.
void encode_store_kv(Device& device, Commands& commands, const PagedParams& params, DType type, DType cache,
                     std::int64_t tokens, Buffer& k, Buffer& v, const PagedBuffers& buffers);

// Each query sees the keys up to its own position; grouped when kv_heads < heads
// (arXiv 2305.13245). \throws Error (kInvalidArgument, kUnsupported) naming the parameter.
void encode_paged_attention(Device& device, Commands& commands, const PagedParams& params, DType type, DType cache,
                            std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers);

}  // namespace metal_marlin::msl

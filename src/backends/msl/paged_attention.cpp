#include "backends/msl/paged_attention.h"

#include "backends/msl/attention.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kPageTokens = 16;

// As attention_parts.
int parts_of(const PagedParams& p) {
  if (p.page_tokens != kPageTokens) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("paged_attention: pages of {} tokens, expected {}", p.page_tokens, kPageTokens));
  }
  return attention_parts("paged_attention", p.heads, p.kv_heads, p.head_dim, p.head_dim);
}

}  // namespace

void encode_store_kv(Device& device, Commands& commands, const PagedParams& params, DType type, DType cache,
                     std::int64_t tokens, Buffer& k, Buffer& v, const PagedBuffers& buffers) {
  static_cast<void>(parts_of(params));  // refuses what the attention would
  if (tokens == 0) return;
  const std::string kernel = fmt::format("store_kv_{}_{}", shader_type(type), shader_type(cache));
  commands.dispatch_threads(device.pipeline("paged_attention", kernel),
                            {params.head_dim, params.kv_heads, static_cast<std::uint32_t>(tokens)}, {32, 1, 4},
                            Arguments()
                                .buffer(0, k)
                                .buffer(1, v)
                                .buffer(2, *buffers.keys, buffers.offset)
                                .buffer(3, *buffers.values, buffers.offset)
                                .buffer(4, *buffers.tables)
                                .buffer(5, *buffers.sequences)
                                .buffer(6, *buffers.positions)
                                .bytes(7, params));
}

void encode_paged_attention(Device& device, Commands& commands, const PagedParams& params, DType type, DType cache,
                            std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers) {
  const int parts = parts_of(params);
  if (tokens == 0) return;
  PagedParams p = params;
  p.sinks = buffers.sinks != nullptr ? 1 : 0;
  const std::string kernel = fmt::format("paged_attention_{}_{}_{}", shader_type(type), shader_type(cache), parts);
  commands.dispatch(device.pipeline("paged_attention", kernel), {params.heads, static_cast<std::uint32_t>(tokens), 1},
                    {128, 1, 1},
                    Arguments()
                        .buffer(0, q)
                        .buffer(1, *buffers.keys, buffers.offset)
                        .buffer(2, *buffers.values, buffers.offset)
                        .buffer(3, out)
                        .buffer(4, *buffers.tables)
                        .buffer(5, *buffers.sequences)
                        .buffer(6, *buffers.positions)
                        .buffer(7, buffers.sinks != nullptr ? *buffers.sinks : *buffers.positions)
                        .bytes(8, p));
}

}  // namespace metal_marlin::msl

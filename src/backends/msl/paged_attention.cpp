#include "backends/msl/paged_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Query heads that one threadgroup answers.
constexpr std::uint32_t kHeadsAtOnce = 4;
// Threadgroups that a core holds side by side.
constexpr std::uint32_t kResident = 2;

// As attention_width.
std::uint32_t width_of(const PagedParams& p) {
  if (p.page_shift < 3 || p.page_shift > 5) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("paged_attention: pages of 2^{} tokens, expected 8, 16 or 32", p.page_shift));
  }
  if (p.latent != 0 && p.value_dim > p.key_dim) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("paged_attention: values of {} in keys of {}", p.value_dim, p.key_dim));
  }
  return attention_width("paged_attention", p.heads, p.kv_heads, p.key_dim, p.value_dim);
}

std::uint32_t heads_at_once(const PagedParams& p) {
  return p.heads > p.kv_heads ? kHeadsAtOnce : 1;
}

std::uint32_t head_groups(const PagedParams& p) {
  const std::uint32_t of_kv = p.heads / p.kv_heads;
  return (of_kv + heads_at_once(p) - 1) / heads_at_once(p);
}

}  // namespace

std::uint32_t paged_parts(const Device& device, const PagedParams& params, std::int64_t tokens, std::uint32_t most) {
  const std::int64_t without = tokens * params.kv_heads * head_groups(params);
  const std::int64_t wanted = std::int64_t{device.traits().cores} * kResident;
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(wanted / std::max<std::int64_t>(without, 1), 1, most));
}

std::size_t paged_partial_bytes(const PagedParams& params, std::int64_t tokens) {
  return static_cast<std::size_t>(tokens) * params.heads * params.parts * (params.value_dim + 2) * sizeof(float);
}

void encode_store_kv(Device& device, Commands& commands, const PagedParams& params, DType type, KvType cache,
                     std::int64_t tokens, Buffer& k, Buffer& v, const PagedBuffers& buffers) {
  static_cast<void>(width_of(params));  // refuses what the attention would
  if (tokens == 0) return;
  const std::string kernel = fmt::format("store_kv_{}_{}", shader_type(type), kv_type_name(cache));
  const std::uint32_t width = params.latent != 0 ? params.key_dim : std::max(params.key_dim, params.value_dim);
  Buffer& values = params.latent != 0 ? *buffers.keys : *buffers.values;
  commands.dispatch(device.pipeline("paged_attention", kernel),
                    {(width + 31) / 32, params.kv_heads, static_cast<std::uint32_t>(tokens)}, {32, 1, 1},
                    Arguments()
                        .buffer(0, k)
                        .buffer(1, v)
                        .buffer(2, *buffers.keys, buffers.keys_offset)
                        .buffer(3, values, params.latent != 0 ? buffers.keys_offset : buffers.values_offset)
                        .buffer(4, *buffers.tables)
                        .buffer(5, *buffers.sequences)
                        .buffer(6, *buffers.positions)
                        .bytes(7, params));
}

void encode_paged_attention(Device& device, Commands& commands, const PagedParams& params, DType type, KvType cache,
                            std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers) {
  const std::uint32_t width = width_of(params);
  if (tokens == 0) return;
  PagedParams p = params;
  p.sinks = buffers.sinks != nullptr ? 1 : 0;
  Buffer& sinks = buffers.sinks != nullptr ? *buffers.sinks : *buffers.positions;
  Buffer& values = p.latent != 0 ? *buffers.keys : *buffers.values;
  const std::string kernel =
      fmt::format("paged_attention_{}_{}_{}_{}", shader_type(type), kv_type_name(cache), width, heads_at_once(p));
  const auto count = static_cast<std::uint32_t>(tokens);
  commands.dispatch(device.pipeline("paged_attention", kernel), {p.kv_heads * head_groups(p), count, p.parts},
                    {128, 1, 1},
                    Arguments()
                        .buffer(0, q)
                        .buffer(1, *buffers.keys, buffers.keys_offset)
                        .buffer(2, values, p.latent != 0 ? buffers.keys_offset : buffers.values_offset)
                        .buffer(3, out)
                        .buffer(4, *buffers.tables)
                        .buffer(5, *buffers.sequences)
                        .buffer(6, *buffers.positions)
                        .buffer(7, sinks)
                        .buffer(8, p.parts > 1 ? *buffers.partial : *buffers.positions)
                        .bytes(9, p));
  if (p.parts == 1) return;
  commands.dispatch_threads(device.pipeline("paged_attention", fmt::format("paged_reduce_{}", shader_type(type))),
                            {p.value_dim, p.heads, count}, {64, 1, 1},
                            Arguments().buffer(0, *buffers.partial).buffer(1, out).buffer(2, sinks).bytes(3, p));
}

}  // namespace metal_marlin::msl

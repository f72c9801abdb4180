#include "backends/msl/paged_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/msl/linear.h"
#include "backends/msl/matrix_unit.h"
#include "backends/msl/tiled_matrix.h"
#include "base/round_up.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Query heads that one threadgroup answers, with and without matrix units.
constexpr std::uint32_t kHeadTokens = 8;
constexpr std::uint32_t kHeadsAtOnce = 4;

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

}  // namespace

PagedWay paged_way(const PagedParams& p, DType type, CacheType cache) {
  const bool same =
      (type == DType::kF16 && cache == CacheType::kF16) || (type == DType::kBf16 && cache == CacheType::kBf16);
  const bool rounds = p.rounded != 0 && (cache == CacheType::kF16 || cache == CacheType::kBf16);
  const std::uint32_t width = std::max(p.key_dim, p.value_dim);
  PagedWay way{};
  way.matrices = (same || rounds) && p.latent == 0 && width <= 256 && p.key_dim % 8 == 0 && p.value_dim % 8 == 0;
  way.at_once = way.matrices ? kHeadTokens : p.heads > p.kv_heads ? kHeadsAtOnce : 1;
  way.groups = divide_up<std::uint32_t>(p.heads / p.kv_heads, way.at_once);
  way.resident = way.matrices && width <= 128 ? 4 : 2;
  return way;
}

std::uint32_t paged_splits(const Device& device, const PagedParams& params, DType type, CacheType cache,
                           std::int64_t tokens, std::uint32_t most) {
  const PagedWay way = paged_way(params, type, cache);
  const std::int64_t without = tokens * params.kv_heads * way.groups;
  const std::int64_t wanted = std::int64_t{device.traits().cores} * way.resident;
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(wanted / std::max<std::int64_t>(without, 1), 1, most));
}

std::size_t paged_partial_bytes(const PagedParams& params, std::int64_t tokens) {
  return static_cast<std::size_t>(tokens) * params.heads * params.splits * (params.value_dim + 2) * sizeof(float);
}

void encode_store_kv(Device& device, Commands& commands, const PagedParams& params, DType type, CacheType cache,
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
                        .buffer(2, *buffers.keys)
                        .buffer(3, values)
                        .buffer(4, *buffers.tables)
                        .buffer(5, *buffers.sequences)
                        .buffer(6, *buffers.positions)
                        .bytes(7, params));
}

void encode_paged_attention(Device& device, Commands& commands, const PagedParams& params, DType type, CacheType cache,
                            std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers) {
  const std::uint32_t width = width_of(params);
  if (tokens == 0) return;
  PagedParams p = params;
  p.sinks = buffers.sinks != nullptr ? 1 : 0;
  Buffer& sinks = buffers.sinks != nullptr ? *buffers.sinks : *buffers.positions;
  Buffer& values = p.latent != 0 ? *buffers.keys : *buffers.values;
  const PagedWay way = paged_way(p, type, cache);
  const auto count = static_cast<std::uint32_t>(tokens);
  const Size3 grid = {p.kv_heads * way.groups, count, p.splits};
  Arguments arguments;
  arguments.buffer(0, q)
      .buffer(1, *buffers.keys)
      .buffer(2, values)
      .buffer(3, out)
      .buffer(4, *buffers.tables)
      .buffer(5, *buffers.sequences)
      .buffer(6, *buffers.positions)
      .buffer(7, sinks)
      .buffer(8, p.splits > 1 ? *buffers.partial : *buffers.positions)
      .bytes(9, p);
  const std::string types = fmt::format("{}_{}_{}", shader_type(type), kv_type_name(cache), width);
  if (way.matrices) {
    arguments.threadgroup(0, tile_bytes(device, 4));
    commands.dispatch(device.pipeline("paged_attention", "paged_matrix_attention_" + types, tile_constants(device)),
                      grid, {128, 1, 1}, arguments);
  } else {
    commands.dispatch(device.pipeline("paged_attention", fmt::format("paged_attention_{}_{}", types, way.at_once)),
                      grid, {128, 1, 1}, arguments);
  }
  if (p.splits == 1) return;
  commands.dispatch_threads(device.pipeline("paged_attention", fmt::format("paged_reduce_{}", shader_type(type))),
                            {p.value_dim, p.heads, count}, {64, 1, 1},
                            Arguments().buffer(0, *buffers.partial).buffer(1, out).buffer(2, sinks).bytes(3, p));
}

}  // namespace metal_marlin::msl

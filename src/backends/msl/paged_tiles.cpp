#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "backends/msl/matrix_unit.h"
#include "backends/msl/packed_attention.h"
#include "backends/msl/paged_attention.h"
#include "base/round_up.h"
#include "common/attention_tiles.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr double kSimdgroups = 4;  // of a threadgroup

// How tiles are answered.
struct TileWay {
  bool matrices;         // on the matrix units
  std::uint32_t width;   // in the kernel's name
  std::int64_t queries;  // of a threadgroup
};
std::optional<TileWay> tile_way(const Device& device, const PagedParams& p, CacheType cache) {
  const std::uint32_t width = attention_width("paged_attention", p.heads, p.kv_heads, p.key_dim, p.value_dim);
  if (p.latent != 0 || width > 256) return std::nullopt;
  if (!paged_way(p, DType::kF32, cache).matrices) return TileWay{false, width, flash_tile_queries(width)};
  const std::uint32_t units = (std::max(p.key_dim, p.value_dim) + 63) / 64;
  if (units > 3) return std::nullopt;
  return TileWay{true, 64 * units, prefill_queries(units, device.traits().thread_registers)};
}

// What loading a key and its value costs a simdgroup, in products with one query, or of tiles on the matrix units.
double load_cost(bool matrices, CacheType cache) {
  const bool numbers = cache == CacheType::kF32 || cache == CacheType::kF16 || cache == CacheType::kBf16;
  return matrices ? 2 : numbers ? 1 : 4;  // codes are decoded
}

// Of a device's cores side by side, and of the threadgroup that has most to do.
double time_of(double total, double longest, const Device& device, std::uint32_t resident) {
  return std::max(longest, total / (device.traits().cores * resident));
}

}  // namespace

bool has_tiles(const Device& device, const PagedParams& params, CacheType cache) {
  return tile_way(device, params, cache).has_value();
}

bool tiles_cost_less(const Device& device, const PagedParams& params, CacheType cache,
                     std::span<const SequenceSlice> batch) {
  const std::optional<TileWay> tile = tile_way(device, params, cache);
  if (!tile) return false;
  const double load = load_cost(tile->matrices, cache);
  const PagedWay by_token = paged_way(params, DType::kF32, cache);
  // By tokens the simdgroups share keys, each loads its own; by tiles each has queries of its own, for all keys.
  const std::uint32_t at_once = std::min(by_token.at_once, params.heads / params.kv_heads);
  const double token_key = ((tile->matrices ? 1 : at_once) + load) / kSimdgroups;
  const double tile_key = (tile->matrices ? 1 : static_cast<double>(tile->queries) / kSimdgroups) + load / kSimdgroups;
  double tokens = 0;
  double tiles = 0;
  double most = 0;
  for (const SequenceSlice& slice : batch) {
    const auto seen = [&](double end) { return params.window != 0 ? std::min<double>(end, params.window) : end; };
    const double mean = seen(static_cast<double>(slice.past) + (slice.count + 1) / 2.0);
    tokens += mean * slice.count;
    tiles += mean * static_cast<double>(divide_up<std::int64_t>(slice.count, tile->queries));
    most = std::max(most, seen(static_cast<double>(slice.past + slice.count)));
  }
  const double time_by_tokens = time_of(tokens * params.kv_heads * by_token.groups * token_key,
                                        most / params.splits * token_key, device, by_token.resident);
  const double time_by_tiles =
      time_of(tiles * params.heads * tile_key, most * tile_key, device, tile->matrices && tile->width <= 128 ? 3 : 2);
  return time_by_tiles < time_by_tokens;
}

void encode_paged_tiles(Device& device, Commands& commands, const PagedParams& params, CacheType cache,
                        std::int64_t tokens, Buffer& q, Buffer& out, const PagedBuffers& buffers,
                        const PagedTiles& tiles) {
  const std::optional<TileWay> way = tile_way(device, params, cache);
  if (!way) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("paged_attention: no tiles for heads of {} and {}{}", params.key_dim, params.value_dim,
                            params.latent != 0 ? ", latents" : ""));
  }
  if (tokens == 0) return;
  TiledParams p;
  p.packed = {params.heads,
              params.kv_heads,
              params.key_dim,
              params.value_dim,
              1,
              params.window,
              0,
              buffers.sinks != nullptr ? 1U : 0U,
              params.scale,
              params.soft_cap};
  p.sequences = to_u32(tiles.sequences);
  Arguments arguments;
  arguments.buffer(0, q)
      .buffer(1, *buffers.keys)
      .buffer(2, *buffers.values)
      .buffer(3, out)
      .buffer(4, *tiles.q_starts)
      .buffer(5, *tiles.k_starts)
      .buffer(6, *buffers.tables)
      .buffer(7, buffers.sinks != nullptr ? *buffers.sinks : *buffers.positions)
      .bytes(8, PageParams{params.page_shift, params.table_stride, params.q_stride, params.out_stride})
      .bytes(9, p);
  const std::string kernel = fmt::format("paged_attention_float_{}_{}", kv_type_name(cache), way->width);
  // Each sequence's last tile may be smaller.
  const Size3 grid = {params.heads, to_u32(tokens / way->queries + tiles.sequences), 1};
  if (way->matrices) {
    arguments.threadgroup(0, tile_bytes(device, 4));
    commands.dispatch(device.pipeline("simdgroup_attention", "simdgroup_" + kernel, tile_constants(device)), grid,
                      {128, 1, 1}, arguments);
  } else {
    commands.dispatch(device.pipeline("flash_attention_v2", "flash_" + kernel), grid, {128, 1, 1}, arguments);
  }
}

}  // namespace metal_marlin::msl

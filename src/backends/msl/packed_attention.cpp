#include "backends/msl/packed_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/msl/linear.h"
#include "backends/msl/matrix_unit.h"
#include "common/attention_tiles.h"
#include "common/packed_attention_params.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// As attention_width.
std::uint32_t width_of(const char* op, const PackedParams& p, std::uint32_t most) {
  if (p.window != 0 && p.causal == 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: a window needs causal attention", op));
  return attention_width(op, p.heads, p.kv_heads, p.key_width, p.value_width, most);
}

// Where a batch has no mask or sinks, something that is there stands for them.
PackedParams params_of(const PackedParams& params, const PackedBatch& batch) {
  PackedParams p = params;
  p.sinks = batch.sinks != nullptr ? 1 : 0;
  if (batch.mask == nullptr) p.mask_stride = 0;
  return p;
}
Buffer& mask_of(const PackedBatch& b) {
  return b.mask != nullptr ? *b.mask : *b.sequences;
}
Buffer& sinks_of(const PackedBatch& b) {
  return b.sinks != nullptr ? *b.sinks : *b.sequences;
}

TiledParams tiled_params(const char* op, const PackedParams& params, const PackedBatch& batch,
                         const AttentionBlocks& blocks) {
  if (batch.sequence_count < 1 || (blocks.map != nullptr && (blocks.size == 0 || blocks.stride == 0))) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} sequences, blocks of {} in rows of {}; expected at least one of each", op,
                            batch.sequence_count, blocks.size, blocks.stride));
  }
  return {params_of(params, batch), to_u32(batch.sequence_count), blocks.map != nullptr ? blocks.size : 0,
          blocks.stride};
}

Arguments tiled_arguments(const PackedBatch& b, const AttentionBlocks& blocks, const TiledParams& p) {
  return Arguments()
      .buffer(0, *b.q)
      .buffer(1, *b.keys)
      .buffer(2, *b.values)
      .buffer(3, *b.out)
      .buffer(4, *b.q_starts)
      .buffer(5, *b.k_starts)
      .buffer(6, mask_of(b))
      .buffer(7, sinks_of(b))
      .buffer(8, blocks.map != nullptr ? *blocks.map : *b.sequences)
      .bytes(9, p);
}

// Tiles of `size` queries: each sequence's last may be smaller.
std::uint32_t tiles_of(const PackedBatch& batch, std::int64_t size) {
  return to_u32(batch.queries / size + batch.sequence_count);
}

Arguments arguments_of(const PackedBatch& b) {
  return Arguments()
      .buffer(0, *b.q)
      .buffer(1, *b.keys)
      .buffer(2, *b.values)
      .buffer(3, *b.out)
      .buffer(4, *b.sequences)
      .buffer(5, *b.q_starts)
      .buffer(6, *b.k_starts);
}

}  // namespace

void encode_flash_attention(Device& device, Commands& commands, const PackedParams& params, DType type, CacheType cache,
                            const PackedBatch& batch) {
  const std::uint32_t width = width_of("flash_attention", params, 640);
  if (batch.queries == 0) return;
  const PackedParams p = params_of(params, batch);
  Arguments arguments = arguments_of(batch);
  arguments.buffer(7, mask_of(batch)).buffer(8, sinks_of(batch)).bytes(9, p);
  const std::string kernel = fmt::format("flash_attention_{}_{}_{}", shader_type(type), kv_type_name(cache), width);
  commands.dispatch(device.pipeline("flash_attention", kernel), {p.heads, static_cast<std::uint32_t>(batch.queries), 1},
                    {128, 1, 1}, arguments);
}

std::int64_t flash_tile_queries(std::uint32_t width) {
  return width == 64 ? 32 : width == 128 ? 16 : width == 256 ? 8 : 4;
}

void encode_flash_attention_v2(Device& device, Commands& commands, const PackedParams& params, DType type,
                               CacheType cache, const PackedBatch& batch, const AttentionBlocks& blocks) {
  const std::uint32_t width = width_of("flash_attention_v2", params, 640);
  if (batch.queries == 0) return;
  const TiledParams p = tiled_params("flash_attention_v2", params, batch, blocks);
  const std::int64_t tile = flash_tile_queries(width);
  const std::string kernel = fmt::format("flash_attention_v2_{}_{}_{}", shader_type(type), kv_type_name(cache), width);
  commands.dispatch(device.pipeline("flash_attention_v2", kernel), {params.heads, tiles_of(batch, tile), 1},
                    {128, 1, 1}, tiled_arguments(batch, blocks, p));
}

void encode_simdgroup_attention(Device& device, Commands& commands, const PackedParams& params, DType type,
                                const PackedBatch& batch, const AttentionBlocks& blocks) {
  static_cast<void>(width_of("simdgroup_attention", params, 192));
  if (type != DType::kF16 && type != DType::kBf16) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("simdgroup_attention: data of {}, expected F16 or BF16", dtype_name(type)));
  }
  if (batch.queries == 0) return;
  const TiledParams p = tiled_params("simdgroup_attention", params, batch, blocks);
  const std::uint32_t width = (std::max(params.key_width, params.value_width) + 63) / 64 * 64;
  Arguments arguments = tiled_arguments(batch, blocks, p);
  arguments.threadgroup(0, tile_bytes(device, 4));
  commands.dispatch(
      device.pipeline("simdgroup_attention", fmt::format("simdgroup_attention_{}_{}", shader_type(type), width),
                      tile_constants(device)),
      {params.heads, tiles_of(batch, prefill_queries(width / 64, device.traits().thread_registers)), 1}, {128, 1, 1},
      arguments);
}

void encode_attention(Device& device, Commands& commands, const PackedParams& params, DType type, CacheType cache,
                      const PackedBatch& batch, Buffer& scores, std::uint32_t stride) {
  const std::uint32_t width = width_of("attention", params, 640);
  if (batch.queries == 0) return;
  const PackedParams p = params_of(params, batch);
  const Size3 grid = {p.heads, to_u32(batch.queries), 1};
  commands.dispatch(device.pipeline("attention", fmt::format("attention_scores_{}_{}_{}", shader_type(type),
                                                             kv_type_name(cache), width)),
                    grid, {128, 1, 1},
                    Arguments()
                        .buffer(0, *batch.q)
                        .buffer(1, *batch.keys)
                        .buffer(2, scores)
                        .buffer(3, *batch.sequences)
                        .buffer(4, *batch.q_starts)
                        .buffer(5, *batch.k_starts)
                        .buffer(6, mask_of(batch))
                        .bytes(7, p)
                        .bytes(8, stride));
  commands.dispatch(device.pipeline("attention", "attention_softmax"), grid, {128, 1, 1},
                    Arguments()
                        .buffer(0, scores)
                        .buffer(1, *batch.sequences)
                        .buffer(2, *batch.k_starts)
                        .buffer(3, sinks_of(batch))
                        .bytes(4, p)
                        .bytes(5, stride));
  commands.dispatch_threads(
      device.pipeline("attention", fmt::format("attention_values_{}_{}", shader_type(type), kv_type_name(cache))),
      {(p.value_width + 3) / 4, p.heads, to_u32(batch.queries)}, {32, 1, 4},
      Arguments()
          .buffer(0, scores)
          .buffer(1, *batch.values)
          .buffer(2, *batch.out)
          .buffer(3, *batch.sequences)
          .buffer(4, *batch.k_starts)
          .bytes(5, p)
          .bytes(6, stride));
}

void encode_store_rows(Device& device, Commands& commands, CacheType cache, std::int64_t rows, std::int64_t width,
                       Buffer& x, Buffer& out) {
  if (rows == 0 || width == 0) return;
  commands.dispatch(device.pipeline("flash_attention", fmt::format("store_rows_{}", kv_type_name(cache))),
                    {static_cast<std::uint32_t>((width + 31) / 32), static_cast<std::uint32_t>(rows), 1}, {32, 1, 1},
                    Arguments().buffer(0, x).buffer(1, out).bytes(2, static_cast<std::uint32_t>(width)));
}

void encode_diff_attention(Device& device, Commands& commands, const PackedParams& params, DType type,
                           const PackedBatch& batch, const DiffOptions& options) {
  const std::uint32_t width = width_of("diff_attention", params, 256);
  if (batch.mask != nullptr || batch.sinks != nullptr)
    throw Error(ErrorCode::kUnsupported, "diff_attention: has neither masks nor sinks");
  if (batch.queries == 0) return;
  const DiffParams p{params, options.eps, options.factor, options.norm != nullptr ? 1U : 0U};
  Arguments arguments = arguments_of(batch);
  arguments.buffer(7, *options.lambdas)
      .buffer(8, options.norm != nullptr ? *options.norm : *options.lambdas)
      .bytes(9, p);
  commands.dispatch(device.pipeline("diff_attention", fmt::format("diff_attention_{}_{}", shader_type(type), width)),
                    {params.heads, static_cast<std::uint32_t>(batch.queries), 1}, {128, 1, 1}, arguments);
}

}  // namespace metal_marlin::msl

#include "backends/msl/packed_attention.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// As DiffParams in shaders/diff_attention.metal.
struct DiffParams {
  PackedParams packed;
  float eps;
  float factor;
  std::uint32_t norm;
};

// As attention_width.
std::uint32_t width_of(const char* op, const PackedParams& p, std::uint32_t most) {
  if (p.window != 0 && p.causal == 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: a window needs causal attention", op));
  return attention_width(op, p.heads, p.kv_heads, p.key_width, p.value_width, most);
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

void encode_flash_attention(Device& device, Commands& commands, const PackedParams& params, DType type, KvType cache,
                            const PackedBatch& batch) {
  const std::uint32_t width = width_of("flash_attention", params, 640);
  if (batch.queries == 0) return;
  PackedParams p = params;
  p.sinks = batch.sinks != nullptr ? 1 : 0;
  if (batch.mask == nullptr) p.mask_stride = 0;
  Arguments arguments = arguments_of(batch);
  arguments.buffer(7, batch.mask != nullptr ? *batch.mask : *batch.sequences)
      .buffer(8, batch.sinks != nullptr ? *batch.sinks : *batch.sequences)
      .bytes(9, p);
  const std::string kernel = fmt::format("flash_attention_{}_{}_{}", shader_type(type), kv_type_name(cache), width);
  commands.dispatch(device.pipeline("flash_attention", kernel), {p.heads, static_cast<std::uint32_t>(batch.queries), 1},
                    {128, 1, 1}, arguments);
}

void encode_store_rows(Device& device, Commands& commands, KvType cache, std::int64_t rows, std::int64_t width,
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

#include "backends/msl/packed_attention.h"

#include <fmt/format.h>

#include <algorithm>

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

void check(const char* op, const PackedParams& p) {
  const std::uint32_t width = std::max(p.key_width, p.value_width);
  if (p.key_width == 0 || p.value_width == 0 || width > 256) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: heads of {} and {}, expected 1 to 256", op, p.key_width, p.value_width));
  }
  if (p.kv_heads == 0 || p.heads % p.kv_heads != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} heads are no multiple of {} kv heads", op, p.heads, p.kv_heads));
  }
  if (p.window != 0 && p.causal == 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: a window needs causal attention", op));
}

// Elements of a lane in the smallest kernel that holds the heads.
int parts_of(const PackedParams& p) {
  const std::uint32_t width = std::max(p.key_width, p.value_width);
  return width <= 64 ? 2 : width <= 128 ? 4 : 8;
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

void encode_flash_attention(Device& device, Commands& commands, const PackedParams& params, DType type, DType cache,
                            const PackedBatch& batch) {
  check("flash_attention", params);
  if (batch.queries == 0) return;
  PackedParams p = params;
  p.sinks = batch.sinks != nullptr ? 1 : 0;
  if (batch.mask == nullptr) p.mask_stride = 0;
  Arguments arguments = arguments_of(batch);
  arguments.buffer(7, batch.mask != nullptr ? *batch.mask : *batch.sequences)
      .buffer(8, batch.sinks != nullptr ? *batch.sinks : *batch.sequences)
      .bytes(9, p);
  const std::string kernel =
      fmt::format("flash_attention_{}_{}_{}", shader_type(type), shader_type(cache), parts_of(p));
  commands.dispatch(device.pipeline("flash_attention", kernel), {p.heads, static_cast<std::uint32_t>(batch.queries), 1},
                    {128, 1, 1}, arguments);
}

void encode_diff_attention(Device& device, Commands& commands, const PackedParams& params, DType type,
                           const PackedBatch& batch, const DiffOptions& options) {
  check("diff_attention", params);
  if (batch.mask != nullptr || batch.sinks != nullptr)
    throw Error(ErrorCode::kUnsupported, "diff_attention: has neither masks nor sinks");
  if (batch.queries == 0) return;
  const DiffParams p{params, options.eps, options.factor, options.norm != nullptr ? 1U : 0U};
  Arguments arguments = arguments_of(batch);
  arguments.buffer(7, *options.lambdas)
      .buffer(8, options.norm != nullptr ? *options.norm : *options.lambdas)
      .bytes(9, p);
  commands.dispatch(
      device.pipeline("diff_attention", fmt::format("diff_attention_{}_{}", shader_type(type), parts_of(params))),
      {params.heads, static_cast<std::uint32_t>(batch.queries), 1}, {128, 1, 1}, arguments);
}

}  // namespace metal_marlin::msl

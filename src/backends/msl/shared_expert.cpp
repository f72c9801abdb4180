#include "backends/msl/shared_expert.h"

#include <fmt/format.h>

#include <array>

#include "backends/msl/matrix_unit.h"
#include "base/round_up.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {

bool can_fuse_gate_up(const Linear& gate, const Linear& up) {
  if (gate.rows() != up.rows() || gate.cols() != up.cols()) return false;
  if (const TiledMatrix* const a = gate.quantized()) {
    const TiledMatrix* const b = up.quantized();
    if (b == nullptr || a->codec != b->codec) return false;
    const TiledMatrixParams& p = a->params;
    const TiledMatrixParams& q = b->params;
    return p.group_shift == q.group_shift && p.scale_type == q.scale_type && p.minima == q.minima &&
           p.offset == q.offset;
  }
  return gate.dense() != nullptr && up.dense() != nullptr && gate.dense()->dtype == up.dense()->dtype &&
         gate.dense()->dtype != DType::kF32;
}

void encode_gate_up(Device& device, Commands& commands, const Linear& gate, const Linear& up, const GateUpCall& call,
                    const LinearWorkspace& workspace) {
  if (!can_fuse_gate_up(gate, up)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("moe_shared_expert: a gate of [{}, {}] and an up of [{}, {}] of one 16-bit or quantized "
                            "format are expected",
                            gate.rows(), gate.cols(), up.rows(), up.cols()));
  }
  if (call.tokens == 0) return;
  const DType type = gate.prepared_type(Activations::kInt8);
  if (call.x != nullptr) {
    encode_prepare(device, commands, type, call.tokens, gate.cols(), gate.cols(), *call.x, workspace);
  }
  const LinearParams p = linear_params(type, DType::kF32, call.tokens, gate.cols(), gate.rows());
  const std::int64_t columns = call.tokens <= 8 ? 1 : 4;
  Arguments arguments;
  std::string kind;
  if (const TiledMatrix* const a = gate.quantized()) {
    const TiledMatrix& b = *up.quantized();
    kind = a->codec + scaling_suffix(*a);
    const std::array<float, 2> factors{a->params.multiplier, b.params.multiplier};
    arguments.buffer(0, *a->codes).buffer(1, *a->scales).buffer(2, *a->minima);
    arguments.buffer(3, *b.codes).buffer(4, *b.scales).buffer(5, *b.minima);
    arguments.buffer(6, workspace.activations()).buffer(7, workspace.factors()).buffer(8, *call.y);
    arguments.bytes(9, a->params).bytes(10, p).bytes(11, factors);
  } else {
    const DenseMatrix& dense = *gate.dense();
    kind = shader_type(dense.dtype);
    arguments.buffer(0, *dense.values).buffer(1, *up.dense()->values).buffer(2, workspace.activations());
    arguments.buffer(3, workspace.factors()).buffer(4, *call.y).bytes(5, static_cast<std::uint32_t>(dense.rows));
    arguments.bytes(6, dense.units).bytes(7, p);
  }
  arguments.threadgroup(0, tile_bytes(device, 4));
  arguments.operations(2 * product_operations(call.tokens, gate.rows(), gate.cols()));
  commands.dispatch(device.pipeline("moe_shared_expert", fmt::format("moe_shared_gate_up_{}_{}", kind, columns),
                                    tile_constants(device)),
                    {divide_up<std::uint32_t>(gate.rows(), 64), divide_up<std::uint32_t>(call.tokens, 8 * columns), 1},
                    {kGemmThreads, 1, 1}, arguments);
}

void encode_shared_add(Device& device, Commands& commands, std::int64_t tokens, std::int64_t width, Buffer& x,
                       Buffer* gate, Buffer& y) {
  if (tokens == 0 || width == 0) return;
  const std::uint32_t gated = gate != nullptr ? 1 : 0;
  const auto columns = static_cast<std::uint32_t>(width);
  commands.dispatch_threads(
      device.pipeline("moe_shared_expert", "moe_shared_add"), {columns, static_cast<std::uint32_t>(tokens), 1},
      {64, 1, 1},
      Arguments().buffer(0, x).buffer(1, gate != nullptr ? *gate : x).buffer(2, y).bytes(3, columns).bytes(4, gated));
}

}  // namespace metal_marlin::msl

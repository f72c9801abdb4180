#include "backends/msl/matrix_stack.h"

#include <fmt/format.h>

#include <algorithm>

#include "backends/msl/matrix_unit.h"
#include "base/round_up.h"
#include "common/linear_params.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Tiles of one item's rows that are made side by side.
constexpr std::int64_t kSideTiles = 8;

}  // namespace

MatrixStack::MatrixStack(Device& device, const std::string& name, std::span<const Weight> items, std::int64_t rows,
                         std::int64_t cols, ThreadPool& pool)
    : rows_(rows), cols_(cols), items_(static_cast<std::uint32_t>(items.size())) {
  const auto same = [&](const Weight& weight) {
    if (weight.packed() != items[0].packed()) return false;
    if (weight.packed()) return std::get<PackedView>(weight.view).spec == std::get<PackedView>(items[0].view).spec;
    return std::get<DenseView>(weight.view).dtype == std::get<DenseView>(items[0].view).dtype;
  };
  if (!std::all_of(items.begin(), items.end(), same))
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: matrices of several formats cannot be stacked", name));
  std::vector<float> factors(items.size(), 1.0F);
  if (items[0].packed()) {
    std::vector<PackedView> views;
    for (const Weight& weight : items) views.push_back(std::get<PackedView>(weight.view));
    for (std::size_t i = 0; i < views.size(); ++i) {
      if (views[i].spec.format == Format::kNvfp4) factors[i] = 1.0F / views[i].global_scale;
    }
    matrix_ = make_tiled_matrix(device, views, pool);
    std::get<TiledMatrix>(matrix_).params.multiplier = 1;
  } else {
    std::vector<DenseView> views;
    for (const Weight& weight : items) views.push_back(std::get<DenseView>(weight.view));
    matrix_ = make_dense_matrix(device, views, rows, cols, pool);
  }
  factors_ = device.allocate_with(factors);
}

std::uint32_t MatrixStack::units() const {
  return quantized() != nullptr ? quantized()->params.units : dense()->units;
}
std::uint32_t MatrixStack::item_blocks() const {
  return divide_up<std::uint32_t>(rows_, kTileRows);
}
std::size_t MatrixStack::bytes() const {
  return quantized() != nullptr ? quantized()->bytes() : dense()->values->size();
}
std::string MatrixStack::kind() const {
  return quantized() != nullptr ? quantized()->codec : shader_type(dense()->dtype);
}
std::string MatrixStack::kind_with_scales(bool common) const {
  if (quantized() == nullptr) return kind();
  return kind() + (common ? scaling_suffix(*quantized()) : quantized()->by_16 ? "_by16" : "");
}
DType MatrixStack::prepared_type(Activations mode) const {
  if (mode == Activations::kF32) return DType::kF32;
  return quantized() != nullptr ? DType::kF16 : dense()->dtype;
}

void encode_batched(Device& device, Commands& commands, const MatrixStack& stack, const BatchedCall& call,
                    const LinearWorkspace& workspace) {
  if (call.starts == nullptr && call.rows % stack.items() != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("batched_gemm: {} rows are no multiple of {} items", call.rows, stack.items()));
  }
  if (call.rows == 0) return;
  const std::int64_t most = call.starts != nullptr ? call.rows : call.rows / stack.items();  // rows of an item
  const BatchParams b{static_cast<std::uint32_t>(stack.rows()),
                      static_cast<std::uint32_t>(stack.cols()),
                      stack.units(),
                      stack.item_blocks(),
                      stack.items(),
                      call.starts != nullptr ? 1U : 0U};
  const DType type = stack.prepared_type(call.mode);
  LinearParams p = linear_params(type, call.y_type, most, stack.cols(), call.y_stride);
  Buffer& starts = call.starts != nullptr ? *call.starts : stack.factors();
  Arguments arguments;
  if (type == DType::kF32) {
    p.x_stride = static_cast<std::uint32_t>(call.x_stride);
    if (const TiledMatrix* const m = stack.quantized()) {
      arguments.buffer(0, *m->codes).buffer(1, *m->scales).buffer(2, *m->minima).buffer(3, *call.x).buffer(4, *call.y);
      arguments.buffer(5, stack.factors()).buffer(6, starts).bytes(7, m->params).bytes(8, p).bytes(9, b);
    } else {
      arguments.buffer(0, *stack.dense()->values).buffer(1, *call.x).buffer(2, *call.y).buffer(3, starts);
      arguments.bytes(4, p).bytes(5, b);
    }
    const auto side = static_cast<std::uint32_t>(std::min(most, 4 * kSideTiles));
    commands.dispatch(device.pipeline("batched_gemm", "batched_exact_" + stack.kind()),
                      {stack.item_blocks(), side, stack.items()}, {32, 1, 1}, arguments);
    return;
  }
  encode_prepare(device, commands, type, call.rows, stack.cols(), call.x_stride, *call.x, workspace);
  const std::int64_t columns = most <= 8 ? 1 : 4;
  if (const TiledMatrix* const m = stack.quantized()) {
    arguments.buffer(0, *m->codes).buffer(1, *m->scales).buffer(2, *m->minima).buffer(3, workspace.activations());
    arguments.buffer(4, *call.y).buffer(5, workspace.factors()).buffer(6, stack.factors()).buffer(7, starts);
    arguments.bytes(8, m->params).bytes(9, p).bytes(10, b);
  } else {
    arguments.buffer(0, *stack.dense()->values).buffer(1, workspace.activations()).buffer(2, *call.y);
    arguments.buffer(3, workspace.factors()).buffer(4, starts).bytes(5, p).bytes(6, b);
  }
  arguments.threadgroup(0, tile_bytes(device, 4));
  const std::string kernel = fmt::format("batched_gemm_{}_{}", stack.kind_with_scales(false), columns);
  const auto side = static_cast<std::uint32_t>(std::min((most + 8 * columns - 1) / (8 * columns), kSideTiles));
  commands.dispatch(device.pipeline("batched_gemm", kernel, tile_constants(device)),
                    {(stack.item_blocks() + 3) / 4, side, stack.items()}, {kGemmThreads, 1, 1}, arguments);
}

}  // namespace metal_marlin::msl

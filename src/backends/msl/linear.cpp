#include "backends/msl/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace metal_marlin::msl {
namespace {

constexpr std::int64_t kUnit = 64;
constexpr std::uint32_t kTileRows = 16;
// Up to here the GEMV's pass over the weights costs less than staging activations.
constexpr std::int64_t kGemvTokens = 16;
// From here gemm_fp4's larger tiles are filled.
constexpr std::int64_t kLargeTokens = 128;
constexpr std::uint32_t kGemmThreads = 128;
constexpr std::uint32_t kBusyThreadgroups = 528;  // that keep a large device busy

std::uint32_t ceil_div(std::int64_t a, std::int64_t b) {
  return static_cast<std::uint32_t>((a + b - 1) / b);
}

std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

struct GemmTile {
  const char* shader;
  std::string kernel;
  std::uint32_t rows;
  std::uint32_t tokens;
};

// The kernels that know the scales' layout (Scaling in shaders/common/unit_layout.h),
// where there is one for the matrix; else the general ones.
std::string scaling_suffix(const UnitMatrix& matrix) {
  const std::string& codec = matrix.codec;
  const bool narrow = static_cast<ScaleType>(matrix.params.scale_type) != ScaleType::kF32 && matrix.params.minima == 0;
  const bool four_bits = codec == "e2m1" || codec == "int4";
  if (narrow) {
    if (matrix.by_16 && codec == "e2m1") return "_g16";
    if (matrix.params.group_shift == 5 && (four_bits || codec == "int8" || codec == "e4m3")) return "_g32";
    if (matrix.params.group_shift > 5 && four_bits) return "_g64";
  }
  return matrix.by_16 ? "_by16" : "";
}

GemmTile gemm_tile(const UnitMatrix& matrix, std::int64_t tokens) {
  const std::string suffix = scaling_suffix(matrix);
  const bool has_large = suffix.starts_with("_g") && (matrix.codec == "e2m1" || matrix.codec == "int4");
  if (has_large && tokens >= kLargeTokens)
    return {"gemm_fp4_optimized", fmt::format("gemm_fp4_{}{}", matrix.codec, suffix), 64, 64};
  return {"marlin_gemm", fmt::format("marlin_gemm_{}{}", matrix.codec, suffix), 64, 32};
}

// Bytes of a simdgroup's sums.
std::uint32_t gemv_sums(std::uint32_t tokens) {
  return (tokens <= 8 ? 1 : 2) * 8 * (kTileRows + 4) * 4;
}

// As StreamPlan in shaders/common/unit_stream.h.
struct StreamPlan {
  std::uint32_t region = 0;
  std::uint32_t ring = 0;
  std::uint32_t activations = 0;
};
// How decode_gemv goes over a matrix.
struct GemvPlan {
  std::uint32_t threadgroups = 1;
  std::uint32_t simdgroups = 1;
  StreamPlan stream;
};

enum class Tokens : std::uint8_t { kPass, kStay };

// Threadgroup memory of a simdgroup. In one round the sums take the ring's place in
// the end; else there are two, so that one's are read while the next are stored.
StreamPlan stream_plan(const UnitMatrix& matrix, std::uint32_t tokens, std::uint32_t simdgroups, bool one_round,
                       Tokens kind) {
  const UnitMatrixParams& p = matrix.params;
  const std::uint32_t ahead = tokens <= 8 ? 8 : 4;  // as in UnitStream
  const std::uint32_t scales = p.group_shift < 6 ? 1024U >> p.group_shift : 16U;
  const std::uint32_t scale_bytes = scales * (static_cast<ScaleType>(p.scale_type) == ScaleType::kF32 ? 4 : 2);
  const std::size_t all_units = std::size_t{ceil_div(p.rows, kTileRows)} * p.units;
  std::uint32_t stage = static_cast<std::uint32_t>(matrix.codes->size() / all_units) + scale_bytes;
  if (kind == Tokens::kPass) stage += tokens * 128;
  const std::uint32_t units = ceil_div(p.units, simdgroups);
  StreamPlan plan;
  plan.ring = one_round ? 0 : 2 * gemv_sums(tokens);
  plan.region = plan.ring + (one_round ? std::min(units, ahead) : ahead) * stage;
  if (kind == Tokens::kStay) {
    plan.activations = plan.region;
    plan.region += tokens * (units * 128 + 64);
  }
  plan.region = std::max(plan.region, gemv_sums(tokens));
  return plan;
}

GemvPlan gemv_plan(const Device& device, const UnitMatrix& matrix, std::uint32_t tokens) {
  const UnitMatrixParams& p = matrix.params;
  const std::uint32_t blocks = ceil_div(p.rows, kTileRows);
  GemvPlan plan;
  const DeviceTraits traits = device.traits();
  const std::uint32_t many = 4 * traits.cores;
  if (!traits.copies_ahead) {
    plan.threadgroups = std::min(blocks, many);
    plan.simdgroups = std::min(p.units, std::clamp(1536 / blocks, 2U, 8U));
    plan.stream.region = 2 * gemv_sums(tokens);
    return plan;
  }
  const auto fits = [&](std::uint32_t bytes) { return plan.simdgroups * plan.stream.region <= bytes; };
  if (blocks > many) {  // threadgroups, two a core, take them in turn
    plan.threadgroups = 2 * traits.cores;
    plan.simdgroups = std::min(p.units, 8U);
    plan.stream = stream_plan(matrix, tokens, plan.simdgroups, false, Tokens::kStay);
    if (fits(traits.threadgroup_bytes / 2)) return plan;
  }
  plan.threadgroups = blocks;
  if (tokens <= 2) {
    plan.simdgroups = std::min(p.units, std::bit_floor(std::clamp(20 * traits.cores / blocks, 4U, 8U)));
    plan.stream = stream_plan(matrix, tokens, plan.simdgroups, true, Tokens::kStay);
    if (fits(traits.threadgroup_bytes)) return plan;
  }
  plan.simdgroups = std::min(p.units, std::bit_floor(std::clamp(12 * traits.cores / blocks, 4U, 8U)));
  plan.stream = stream_plan(matrix, tokens, plan.simdgroups, true, Tokens::kPass);
  while (!fits(traits.threadgroup_bytes)) {
    plan.simdgroups /= 2;
    plan.stream = stream_plan(matrix, tokens, plan.simdgroups, true, Tokens::kPass);
  }
  return plan;
}

std::uint32_t parts_of(const UnitMatrix& matrix, const GemmTile& tile, std::int64_t tokens) {
  const std::uint32_t tiles = ceil_div(matrix.params.rows, tile.rows) * ceil_div(tokens, tile.tokens);
  const std::uint32_t wanted = std::clamp(kBusyThreadgroups / std::max(1U, tiles), 1U, kMaxParts);
  return std::min(wanted, std::max(1U, matrix.params.units / 4));
}

}  // namespace

LinearWorkspace::LinearWorkspace(Device& device, std::int64_t max_tokens, std::int64_t max_cols, std::int64_t max_rows)
    : max_tokens_(max_tokens) {
  const auto tokens = static_cast<std::size_t>(round_up(max_tokens, 8));
  activations_ = device.allocate(tokens * static_cast<std::size_t>(round_up(max_cols, kUnit)) * 2);
  factors_ = device.allocate(tokens * sizeof(float));
  const std::size_t split_tokens = std::min<std::size_t>(tokens, std::size_t{64} * kBusyThreadgroups);
  partial_ =
      device.allocate(std::size_t{kMaxParts} * split_tokens * static_cast<std::size_t>(max_rows) * sizeof(float));
}

Linear::Linear(Device& device, const std::string& name, const Weight& weight, std::int64_t rows, std::int64_t cols,
               ThreadPool& pool)
    : device_(device), rows_(rows), cols_(cols), nothing_(device.allocate(64)) {
  if (weight.packed()) {
    matrix_ = make_unit_matrix(device, name, std::get<PackedView>(weight.view), pool);
  } else {
    matrix_ = make_dense_matrix(device, std::get<DenseView>(weight.view), rows, cols, pool);
  }
}

Linear::Linear(Device& device, UnitMatrix matrix)
    : device_(device),
      rows_(matrix.params.rows),
      cols_(matrix.cols),
      matrix_(std::move(matrix)),
      nothing_(device.allocate(64)) {}
Linear::Linear(Device& device, DenseMatrix matrix)
    : device_(device),
      rows_(matrix.rows),
      cols_(matrix.cols),
      matrix_(std::move(matrix)),
      nothing_(device.allocate(64)) {}

std::string Linear::kernel_for(std::int64_t tokens, Activations mode) const {
  if (const auto* const dense = std::get_if<DenseMatrix>(&matrix_)) {
    if (dense->dtype == DType::kF32) return "dense_gemm_f32";
    return fmt::format("dense_gemm_{}_{}", dense->dtype == DType::kF16 ? "half" : "bfloat", tokens <= 8 ? 1 : 8);
  }
  const auto& matrix = std::get<UnitMatrix>(matrix_);
  if (mode == Activations::kF32) return "exact_gemm_" + matrix.codec;
  if (tokens > kGemvTokens) return gemm_tile(matrix, tokens).kernel;
  return fmt::format("decode_gemv_{}{}_{}", matrix.codec, scaling_suffix(matrix), tokens <= 8 ? 1 : 2);
}

LinearParams Linear::params_of(const Call& call) const {
  LinearParams p;
  p.tokens = static_cast<std::uint32_t>(call.tokens);
  p.x_stride = static_cast<std::uint32_t>(round_up(cols_, kUnit));
  p.y_stride = static_cast<std::uint32_t>(rows_);
  p.y_type = call.y_type == DType::kF16 ? 1 : call.y_type == DType::kBf16 ? 2 : 0;
  p.bias = call.bias != nullptr ? 1 : 0;
  p.accumulate = call.accumulate ? 1 : 0;
  p.activation = static_cast<std::uint32_t>(call.activation);
  p.x_scales = 1;
  return p;
}

void Linear::prepare(Commands& commands, const Call& call, const LinearWorkspace& workspace, const char* type) const {
  if (call.x == nullptr) return;
  const auto cols = static_cast<std::uint32_t>(cols_);
  const auto stride = static_cast<std::uint32_t>(round_up(cols_, kUnit));
  const auto tokens = static_cast<std::uint32_t>(call.tokens);
  commands.dispatch(device_.pipeline("marlin_gemm", fmt::format("prepare_{}", type)),
                    {static_cast<std::uint32_t>(round_up(call.tokens, 8)), 1, 1}, {128, 1, 1},
                    Arguments()
                        .buffer(0, *call.x)
                        .buffer(1, workspace.activations())
                        .buffer(2, workspace.factors())
                        .bytes(3, cols)
                        .bytes(4, stride)
                        .bytes(5, tokens));
}

void Linear::encode(Commands& commands, const Call& call, const LinearWorkspace& workspace) const {
  if (const auto* const dense = std::get_if<DenseMatrix>(&matrix_))
    return encode_dense(commands, *dense, call, workspace);
  encode_quantized(commands, std::get<UnitMatrix>(matrix_), call, workspace);
}

void Linear::encode_quantized(Commands& commands, const UnitMatrix& matrix, const Call& call,
                              const LinearWorkspace& workspace) const {
  LinearParams p = params_of(call);
  const std::string kernel = kernel_for(call.tokens, call.mode);
  Buffer& bias = call.bias != nullptr ? *call.bias : *nothing_;
  Arguments arguments;
  arguments.buffer(0, *matrix.codes)
      .buffer(1, *matrix.scales)
      .buffer(2, *matrix.minima)
      .buffer(4, *call.y)
      .buffer(5, bias);
  const std::uint32_t blocks = ceil_div(rows_, kTileRows);
  const auto tokens = static_cast<std::uint32_t>(call.tokens);
  if (call.mode == Activations::kF32) {
    p.x_stride = static_cast<std::uint32_t>(cols_);
    p.x_scales = 0;
    const auto cols = static_cast<std::uint32_t>(cols_);
    arguments.buffer(3, *call.x).bytes(6, matrix.params).bytes(7, p).bytes(8, cols);
    commands.dispatch(device_.pipeline("dense_gemm", kernel), {blocks, tokens, 1}, {32, 1, 1}, arguments);
    return;
  }
  prepare(commands, call, workspace, "half");
  arguments.buffer(3, workspace.activations()).buffer(6, workspace.factors()).bytes(7, matrix.params).bytes(8, p);
  if (call.tokens <= kGemvTokens) {
    const GemvPlan plan = gemv_plan(device_, matrix, tokens);
    arguments.bytes(9, plan.stream).threadgroup(0, plan.simdgroups * plan.stream.region);
    commands.dispatch(device_.pipeline("decode_gemv", kernel), {plan.threadgroups, 1, 1}, {32 * plan.simdgroups, 1, 1},
                      arguments);
    return;
  }
  const GemmTile tile = gemm_tile(matrix, call.tokens);
  const std::uint32_t parts = parts_of(matrix, tile, call.tokens);
  arguments.buffer(9, parts > 1 ? workspace.partial() : *nothing_);
  commands.dispatch(device_.pipeline(tile.shader, kernel),
                    {ceil_div(rows_, tile.rows), ceil_div(call.tokens, tile.tokens), parts}, {kGemmThreads, 1, 1},
                    arguments);
  if (parts == 1) return;
  const auto rows = static_cast<std::uint32_t>(rows_);
  commands.dispatch_threads(device_.pipeline("marlin_gemm", "marlin_reduce"), {rows, tokens, 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, workspace.partial())
                                .buffer(1, *call.y)
                                .buffer(2, bias)
                                .buffer(3, workspace.factors())
                                .bytes(4, p)
                                .bytes(5, rows)
                                .bytes(6, parts));
}

void Linear::encode_dense(Commands& commands, const DenseMatrix& matrix, const Call& call,
                          const LinearWorkspace& workspace) const {
  LinearParams p = params_of(call);
  const std::string kernel = kernel_for(call.tokens, call.mode);
  Buffer& bias = call.bias != nullptr ? *call.bias : *nothing_;
  const auto rows = static_cast<std::uint32_t>(rows_);
  Arguments arguments;
  if (matrix.dtype == DType::kF32) {
    p.x_stride = static_cast<std::uint32_t>(cols_);
    p.x_scales = 0;
    const auto cols = static_cast<std::uint32_t>(cols_);
    arguments.buffer(0, *matrix.values).buffer(1, *call.x).buffer(2, *call.y).buffer(3, bias);
    arguments.bytes(4, rows).bytes(5, cols).bytes(6, p);
    commands.dispatch(device_.pipeline("dense_gemm", kernel), {rows, ceil_div(call.tokens, 4), 1}, {32, 1, 1},
                      arguments);
    return;
  }
  prepare(commands, call, workspace, matrix.dtype == DType::kF16 ? "half" : "bfloat");
  arguments.buffer(0, *matrix.values).buffer(1, workspace.activations()).buffer(2, *call.y).buffer(3, bias);
  arguments.buffer(4, workspace.factors()).bytes(5, rows).bytes(6, matrix.units).bytes(7, p);
  const std::int64_t tile_tokens = call.tokens <= 8 ? 8 : 64;
  commands.dispatch(device_.pipeline("dense_gemm", kernel),
                    {ceil_div(rows_, kTileRows * 4), ceil_div(call.tokens, tile_tokens), 1}, {kGemmThreads, 1, 1},
                    arguments);
}

}  // namespace metal_marlin::msl

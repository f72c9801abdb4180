#include "backends/msl/linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "backends/msl/dequantize.h"
#include "backends/msl/matrix_unit.h"
#include "base/round_up.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kBandBlocks = 2;  // of 16 rows, in decode_gemv
// From here gemm_fp4's larger tiles are filled.
constexpr std::int64_t kLargeTokens = 128;
constexpr std::size_t kLargestTile = 64 * 64;  // rows times tokens
// Simdgroups (of 16 rows) and columns (of 8 tokens) that kernels_autotune's kernels are made for.
constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 11> kTuned{
    {{2, 1}, {2, 2}, {2, 4}, {2, 8}, {4, 1}, {4, 2}, {4, 4}, {4, 8}, {8, 1}, {8, 2}, {8, 4}}};
constexpr std::int64_t kMostTunedTokens = 4096;

}  // namespace

// Of the kernels that know the layout, where there is one for the matrix; else of the general ones.
std::string scaling_suffix(const TiledMatrix& matrix) {
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

namespace {

struct GemmTile {
  const char* shader;
  std::string kernel;
  std::uint32_t rows;
  std::uint32_t tokens;
};

GemmTile gemm_tile(const TiledMatrix& matrix, std::int64_t tokens) {
  const std::string suffix = scaling_suffix(matrix);
  const bool has_large = suffix.starts_with("_g") && (matrix.codec == "e2m1" || matrix.codec == "int4");
  if (has_large && tokens >= kLargeTokens)
    return {"gemm_fp4_optimized", fmt::format("gemm_fp4_{}{}", matrix.codec, suffix), 64, 64};
  return {"marlin_gemm", fmt::format("marlin_gemm_{}{}", matrix.codec, suffix), 64, 32};
}

// Columns of 8 tokens that decode_gemv multiplies at a time, if it does: beyond,
// staging activations costs less than its passes over them.
std::optional<std::uint32_t> gemv_columns(const TiledMatrix& matrix, std::int64_t tokens) {
  if (tokens <= 8) return 1;
  if (tokens <= 16) return 2;
  if (tokens <= 32 && scaling_suffix(matrix).starts_with("_g")) return 4;
  return std::nullopt;
}

// How decode_gemv goes over a matrix, a band of 32 rows a threadgroup.
struct GemvPlan {
  std::uint32_t threadgroups = 1;
  std::uint32_t simdgroups = 1;
  StreamPlan stream;
};

// Threadgroup memory of a simdgroup: the ring, whose place the sums take in the end.
std::uint32_t ring_bytes(const TiledMatrix& matrix, std::uint32_t columns, std::uint32_t tokens,
                         std::uint32_t simdgroups) {
  const std::uint32_t ahead = columns == 4 ? 2 : 4;  // as in UnitStream
  return std::min(divide_up<std::uint32_t>(matrix.params.units, simdgroups), ahead) *
         (kBandBlocks * matrix.unit_bytes() + tokens * 128);
}

GemvPlan gemv_plan(Device& device, const TiledMatrix& matrix, std::uint32_t columns, std::uint32_t tokens) {
  const std::uint32_t bands = divide_up<std::uint32_t>(matrix.params.rows, kBandBlocks * kTileRows);
  const std::uint32_t sums = columns * 8 * (kBandBlocks * kTileRows + 4) * 4;
  const DeviceTraits traits = device.traits();
  GemvPlan plan;
  plan.threadgroups = bands;
  // Many bands keep a device busy by themselves; of few, more simdgroups wait side by side.
  plan.simdgroups = std::min(matrix.params.units, bands > 4 * traits.cores ? 4U : 8U);
  for (;; --plan.simdgroups) {
    const std::uint32_t ring = traits.copies_ahead ? ring_bytes(matrix, columns, tokens, plan.simdgroups) : 0;
    plan.stream.tiles = std::max(sums, ring);
    plan.stream.region = plan.stream.tiles + (device.matrix_unit().staged ? tile_bytes(device, 1) : 0);
    if (plan.simdgroups * plan.stream.region <= traits.threadgroup_bytes) return plan;
  }
}

constexpr std::uint32_t kLongUnits = 32;  // of a part: rows that may be cut finer than the device needs

std::uint32_t splits_of(const Device& device, const TiledMatrix& matrix, const GemmTile& tile, std::int64_t tokens) {
  const std::uint32_t tiles =
      divide_up<std::uint32_t>(matrix.params.rows, tile.rows) * divide_up<std::uint32_t>(tokens, tile.tokens);
  const std::uint32_t busy = device.traits().busy_threadgroups;
  std::uint32_t wanted = busy / std::max(1U, tiles);
  // Of long rows rather more than that, by up to a third, than tiles that leave a third of the device idle.
  if (const std::uint32_t nearest = (busy + tiles / 2) / std::max(1U, tiles);
      matrix.params.units / kLongUnits >= nearest)
    wanted = nearest;
  return std::min(std::clamp(wanted, 1U, kMaxParts), std::max(1U, matrix.params.units / 4));
}

}  // namespace

LinearWorkspace::LinearWorkspace(Device& device, std::int64_t max_tokens, std::int64_t max_cols, std::int64_t max_rows)
    : max_tokens_(max_tokens) {
  const auto tokens = static_cast<std::size_t>(round_up(max_tokens, 8));
  activations_ = device.allocate(tokens * static_cast<std::size_t>(round_up(max_cols, kUnit)) * 2);
  factors_ = device.allocate(tokens * sizeof(float));
  // Parts are made until there are tiles enough to keep the device busy, no more.
  const std::size_t sums = std::min(std::size_t{kMaxParts} * tokens * static_cast<std::size_t>(max_rows),
                                    std::size_t{device.traits().busy_threadgroups} * 4 / 3 * kLargestTile);
  partial_ = device.allocate(sums * sizeof(float));
}

Linear::Linear(Device& device, const std::string& name, const Weight& weight, std::int64_t rows, std::int64_t cols,
               ThreadPool& pool)
    : device_(device), rows_(rows), cols_(cols), nothing_(device.allocate(64)) {
  if (const auto* const packed = std::get_if<PackedView>(&weight.view)) {
    if (packed->spec.sparse) {
      matrix_ = make_sparse_tiled_matrix(device, name, *packed, pool);
    } else {
      matrix_ = make_tiled_matrix(device, *packed, pool);
    }
  } else {
    matrix_ = make_dense_matrix(device, std::get<DenseView>(weight.view), rows, cols, pool);
  }
}

Linear::Linear(Device& device, TiledMatrix matrix)
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

Linear::Linear(Device& device, SparseTiledMatrix matrix)
    : device_(device),
      rows_(matrix.units.params.rows),
      cols_(matrix.units.cols),
      matrix_(std::move(matrix)),
      nothing_(device.allocate(64)) {}

std::string Linear::kernel_for(std::int64_t tokens, Activations mode) const {
  if (const auto* const dense = std::get_if<DenseMatrix>(&matrix_)) {
    if (dense->dtype == DType::kF32) return "dense_gemm_f32";
    if (mode == Activations::kF32) return fmt::format("dense_exact_{}", shader_type(dense->dtype));
    return fmt::format("dense_gemm_{}_{}", shader_type(dense->dtype), tokens <= 8 ? 1 : 8);
  }
  if (const auto* const sparse = std::get_if<SparseTiledMatrix>(&matrix_)) {
    const TiledMatrix& units = sparse->units;
    if (mode == Activations::kF32) return "sparse_exact_" + units.codec;
    return fmt::format("sparse_gemm_{}{}_{}", units.codec, units.by_16 ? "_by16" : "", tokens <= 8 ? 1 : 4);
  }
  const auto& matrix = std::get<TiledMatrix>(matrix_);
  if (mode == Activations::kF32) return "exact_gemm_" + matrix.codec;
  if (const auto columns = gemv_columns(matrix, tokens))
    return fmt::format("decode_gemv_{}{}_{}", matrix.codec, scaling_suffix(matrix), *columns);
  return gemm_tile(matrix, tokens).kernel;
}

LinearParams linear_params(DType type, DType y_type, std::int64_t tokens, std::int64_t cols, std::int64_t y_stride) {
  LinearParams p;
  p.tokens = static_cast<std::uint32_t>(tokens);
  p.x_stride = static_cast<std::uint32_t>(type == DType::kF32 ? cols : round_up(cols, kUnit));
  p.y_stride = static_cast<std::uint32_t>(y_stride);
  p.y_type = y_type == DType::kF16 ? 1 : y_type == DType::kBf16 ? 2 : 0;
  p.x_scales = type == DType::kF32 ? 0 : 1;
  return p;
}

LinearParams Linear::params_of(const Call& call) const {
  LinearParams p = linear_params(prepared_type(call.mode), call.y_type, call.tokens, cols_, rows_);
  p.bias = call.bias != nullptr ? 1 : 0;
  p.accumulate = call.accumulate ? 1 : 0;
  p.activation = static_cast<std::uint32_t>(call.activation);
  return p;
}

DType Linear::prepared_type(Activations mode) const {
  if (mode == Activations::kF32) return DType::kF32;
  const auto* const dense = std::get_if<DenseMatrix>(&matrix_);
  return dense != nullptr ? dense->dtype : DType::kF16;
}

void Linear::encode_rows(Commands& commands, std::int64_t count, Buffer& ids, Buffer& out) const {
  if (const auto* const dense = std::get_if<DenseMatrix>(&matrix_)) {
    encode_embed(device_, commands, *dense, count, ids, out);
  } else if (const auto* const units = std::get_if<TiledMatrix>(&matrix_)) {
    encode_embed(device_, commands, *units, count, ids, out);
  } else {
    throw Error(ErrorCode::kUnsupported, "the msl backend has no kernel for rows of a 2:4 sparse matrix");
  }
}

std::size_t Linear::bytes() const {
  if (const auto* const dense = std::get_if<DenseMatrix>(&matrix_)) return dense->values->size();
  if (const auto* const sparse = std::get_if<SparseTiledMatrix>(&matrix_)) return sparse->bytes();
  return std::get<TiledMatrix>(matrix_).bytes();
}

namespace {

// A threadgroup a row, also of those that fill the last eight.
void dispatch_prepare(Device& device, Commands& commands, const char* kernel, DType type, std::int64_t rows,
                      std::int64_t cols, Buffer& x, Arguments& arguments, const LinearWorkspace& workspace) {
  const auto threads = static_cast<std::uint32_t>(std::clamp<std::int64_t>(cols / 128 * 32, 128, 512));
  arguments.buffer(0, x)
      .buffer(1, workspace.activations())
      .buffer(2, workspace.factors())
      .bytes(3, static_cast<std::uint32_t>(cols))
      .bytes(4, static_cast<std::uint32_t>(round_up(cols, kUnit)))
      .bytes(5, static_cast<std::uint32_t>(rows));
  commands.dispatch(device.pipeline("gemm_epilogue", fmt::format("{}_{}", kernel, shader_type(type))),
                    {static_cast<std::uint32_t>(round_up(rows, 8)), 1, 1}, {threads, 1, 1}, arguments);
}

}  // namespace

void encode_prepare(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                    std::int64_t x_stride, Buffer& x, const LinearWorkspace& workspace) {
  Arguments arguments;
  arguments.bytes(6, static_cast<std::uint32_t>(x_stride));
  dispatch_prepare(device, commands, "prepare", type, rows, cols, x, arguments, workspace);
}

void encode_prepare_norm(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                         float eps, Buffer& x, Buffer& weight, Buffer& out, const LinearWorkspace& workspace) {
  Arguments arguments;
  arguments.buffer(6, weight).buffer(7, out).bytes(8, eps);
  dispatch_prepare(device, commands, "prepare_norm", type, rows, cols, x, arguments, workspace);
}

GateParams gate_params(GateActivation activation, const GateClamp& clamp) {
  const auto params = [](Activation a) { return GateParams{static_cast<std::uint32_t>(a), 0, 0, 0}; };
  switch (activation) {
    case GateActivation::kSilu: return params(Activation::kSilu);
    case GateActivation::kGeluTanh: return params(Activation::kGeluTanh);
    case GateActivation::kGelu: return params(Activation::kGelu);
    case GateActivation::kClamped: break;
  }
  return {static_cast<std::uint32_t>(Activation::kNone), 1, clamp.alpha, clamp.limit};
}

void encode_prepare_gated(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                          const GateParams& form, Buffer& gate, Buffer& up, Buffer& out,
                          const LinearWorkspace& workspace) {
  Arguments arguments;
  arguments.buffer(6, up).buffer(7, out).bytes(8, form);
  dispatch_prepare(device, commands, "prepare_gated", type, rows, cols, gate, arguments, workspace);
}

void Linear::prepare(Commands& commands, const Call& call, const LinearWorkspace& workspace) const {
  if (call.x == nullptr) return;
  encode_prepare(device_, commands, prepared_type(call.mode), call.tokens, cols_, cols_, *call.x, workspace);
}

void Linear::encode(Commands& commands, const Call& call, const LinearWorkspace& workspace) const {
  if (const auto* const dense = std::get_if<DenseMatrix>(&matrix_))
    return encode_dense(commands, *dense, call, workspace);
  if (const auto* const sparse = std::get_if<SparseTiledMatrix>(&matrix_))
    return encode_sparse(commands, *sparse, call, workspace);
  encode_quantized(commands, std::get<TiledMatrix>(matrix_), call, workspace);
}

std::vector<TunedTile> tuned_tiles(const TiledMatrix& matrix) {
  const std::string kind = matrix.codec + scaling_suffix(matrix);
  constexpr std::array known{"e2m1_g16", "e2m1_g32", "int4_g32", "int4_g64"};
  if (std::find(known.begin(), known.end(), kind) == known.end()) return {};
  std::vector<TunedTile> out;
  for (const auto& [simdgroups, columns] : kTuned) out.push_back({16 * simdgroups, 8 * columns});
  return out;
}

void encode_tuned(Device& device, Commands& commands, const TiledMatrix& matrix, const TunedTile& tile,
                  const LinearParams& params, Buffer& y, const LinearWorkspace& workspace) {
  const std::uint32_t simdgroups = tile.rows / 16;
  const std::string kernel =
      fmt::format("tuned_gemm_{}{}_{}_{}", matrix.codec, scaling_suffix(matrix), simdgroups, tile.tokens / 8);
  commands.dispatch(device.pipeline("kernels_autotune", kernel, tile_constants(device)),
                    {divide_up<std::uint32_t>(matrix.params.rows, tile.rows),
                     divide_up<std::uint32_t>(params.tokens, tile.tokens), 1},
                    {32 * simdgroups, 1, 1},
                    Arguments()
                        .buffer(0, *matrix.codes)
                        .buffer(1, *matrix.scales)
                        .buffer(2, *matrix.minima)
                        .buffer(3, workspace.activations())
                        .buffer(4, workspace.factors())
                        .buffer(5, y)
                        .bytes(6, matrix.params)
                        .bytes(7, params)
                        .threadgroup(0, tile_bytes(device, simdgroups))
                        .operations(product_operations(params.tokens, matrix.params.rows,
                                                       kUnit * std::int64_t{matrix.params.units})));
}

TunedProduct Linear::product_of(std::int64_t tokens) const {
  const TiledMatrix& matrix = *quantized();
  return {device_.name(), matrix.codec + scaling_suffix(matrix), rows_, cols_, tokens};
}

void Linear::tune(const TunedTiles& tiles) {
  if (quantized() == nullptr) return;
  const std::vector<TunedTile> legal = tuned_tiles(*quantized());
  for (std::int64_t tokens = 1; tokens <= kMostTunedTokens; tokens *= 2) {
    const std::optional<TunedTile> tile = tiles.find(product_of(tokens));
    if (tile && std::find(legal.begin(), legal.end(), *tile) != legal.end())
      tuned_[static_cast<std::uint64_t>(tokens)] = *tile;
  }
}

std::optional<TunedTile> Linear::tuned_tile(std::int64_t tokens) const {
  const auto found = tuned_.find(std::bit_ceil(static_cast<std::uint64_t>(tokens)));
  return found == tuned_.end() ? std::nullopt : std::optional(found->second);
}

void Linear::encode_quantized(Commands& commands, const TiledMatrix& matrix, const Call& call,
                              const LinearWorkspace& workspace) const {
  LinearParams p = params_of(call);
  const std::string kernel = kernel_for(call.tokens, call.mode);
  Buffer& bias = call.bias != nullptr ? *call.bias : *nothing_;
  Arguments arguments;
  arguments.operations(product_operations(call.tokens, rows_, cols_));
  arguments.buffer(0, *matrix.codes)
      .buffer(1, *matrix.scales)
      .buffer(2, *matrix.minima)
      .buffer(4, *call.y)
      .buffer(5, bias);
  const std::uint32_t blocks = divide_up<std::uint32_t>(rows_, kTileRows);
  const auto tokens = static_cast<std::uint32_t>(call.tokens);
  if (call.mode == Activations::kF32) {
    const auto cols = static_cast<std::uint32_t>(cols_);
    arguments.buffer(3, *call.x).bytes(6, matrix.params).bytes(7, p).bytes(8, cols);
    commands.dispatch(device_.pipeline("dense_gemm", kernel), {blocks, tokens, 1}, {32, 1, 1}, arguments);
    return;
  }
  prepare(commands, call, workspace);
  if (const auto tile = tuned_tile(call.tokens); tile && call.bias == nullptr)
    return encode_tuned(device_, commands, matrix, *tile, p, *call.y, workspace);
  arguments.buffer(3, workspace.activations()).buffer(6, workspace.factors()).bytes(7, matrix.params).bytes(8, p);
  const FunctionConstants constants = tile_constants(device_);
  if (const auto columns = gemv_columns(matrix, call.tokens)) {
    const GemvPlan plan = gemv_plan(device_, matrix, *columns, tokens);
    arguments.bytes(9, plan.stream).threadgroup(0, plan.simdgroups * plan.stream.region);
    commands.dispatch(device_.pipeline("decode_gemv", kernel, constants), {plan.threadgroups, 1, 1},
                      {32 * plan.simdgroups, 1, 1}, arguments);
    return;
  }
  const GemmTile tile = gemm_tile(matrix, call.tokens);
  const std::uint32_t splits = splits_of(device_, matrix, tile, call.tokens);
  arguments.buffer(9, splits > 1 ? workspace.partial() : *nothing_)
      .threadgroup(0, tile_bytes(device_, kGemmThreads / 32));
  commands.dispatch(
      device_.pipeline(tile.shader, kernel, constants),
      {divide_up<std::uint32_t>(rows_, tile.rows), divide_up<std::uint32_t>(call.tokens, tile.tokens), splits},
      {kGemmThreads, 1, 1}, arguments);
  if (splits == 1) return;
  const auto rows = static_cast<std::uint32_t>(rows_);
  commands.dispatch_threads(device_.pipeline("marlin_gemm", "marlin_reduce"), {rows, tokens, 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, workspace.partial())
                                .buffer(1, *call.y)
                                .buffer(2, bias)
                                .buffer(3, workspace.factors())
                                .bytes(4, p)
                                .bytes(5, rows)
                                .bytes(6, splits));
}

void Linear::encode_sparse(Commands& commands, const SparseTiledMatrix& matrix, const Call& call,
                           const LinearWorkspace& workspace) const {
  const TiledMatrix& units = matrix.units;
  const LinearParams p = params_of(call);
  const std::string kernel = kernel_for(call.tokens, call.mode);
  const std::uint32_t blocks = divide_up<std::uint32_t>(rows_, kTileRows);
  Arguments arguments;
  arguments.operations(product_operations(call.tokens, rows_, cols_));
  arguments.buffer(0, *matrix.codes).buffer(1, *units.scales);
  arguments.buffer(7, call.bias != nullptr ? *call.bias : *nothing_);
  if (call.mode == Activations::kF32) {
    arguments.buffer(2, *call.x).buffer(3, *call.y).bytes(4, units.params).bytes(5, p);
    arguments.bytes(6, static_cast<std::uint32_t>(cols_));
    commands.dispatch(device_.pipeline("sparse_gemm", kernel), {blocks, static_cast<std::uint32_t>(call.tokens), 1},
                      {32, 1, 1}, arguments);
    return;
  }
  prepare(commands, call, workspace);
  arguments.buffer(2, workspace.activations()).buffer(3, workspace.factors()).buffer(4, *call.y);
  arguments.bytes(5, units.params).bytes(6, p).threadgroup(0, tile_bytes(device_, kGemmThreads / 32));
  commands.dispatch(
      device_.pipeline("sparse_gemm", kernel, tile_constants(device_)),
      {divide_up<std::uint32_t>(blocks, 4), divide_up<std::uint32_t>(call.tokens, call.tokens <= 8 ? 8 : 32), 1},
      {kGemmThreads, 1, 1}, arguments);
}

void Linear::encode_dense(Commands& commands, const DenseMatrix& matrix, const Call& call,
                          const LinearWorkspace& workspace) const {
  LinearParams p = params_of(call);
  const std::string kernel = kernel_for(call.tokens, call.mode);
  Buffer& bias = call.bias != nullptr ? *call.bias : *nothing_;
  const auto rows = static_cast<std::uint32_t>(rows_);
  Arguments arguments;
  arguments.operations(product_operations(call.tokens, rows_, cols_));
  const bool exact = call.mode == Activations::kF32 && matrix.dtype != DType::kF32;
  if (matrix.dtype == DType::kF32 || exact) {
    const auto cols = static_cast<std::uint32_t>(cols_);
    arguments.buffer(0, *matrix.values).buffer(1, *call.x).buffer(2, *call.y).buffer(3, bias);
    arguments.bytes(4, rows).bytes(5, cols);
    if (exact) {
      arguments.bytes(6, matrix.units).bytes(7, p);
      commands.dispatch(device_.pipeline("dense_gemm", kernel),
                        {divide_up<std::uint32_t>(rows_, kTileRows), static_cast<std::uint32_t>(call.tokens), 1},
                        {32, 1, 1}, arguments);
      return;
    }
    arguments.bytes(6, p);
    commands.dispatch(device_.pipeline("dense_gemm", kernel), {rows, divide_up<std::uint32_t>(call.tokens, 4), 1},
                      {32, 1, 1}, arguments);
    return;
  }
  prepare(commands, call, workspace);
  arguments.buffer(0, *matrix.values).buffer(1, workspace.activations()).buffer(2, *call.y).buffer(3, bias);
  arguments.buffer(4, workspace.factors()).bytes(5, rows).bytes(6, matrix.units).bytes(7, p);
  arguments.threadgroup(0, tile_bytes(device_, kGemmThreads / 32));
  const std::int64_t tile_tokens = call.tokens <= 8 ? 8 : 64;
  commands.dispatch(
      device_.pipeline("dense_gemm", kernel, tile_constants(device_)),
      {divide_up<std::uint32_t>(rows_, kTileRows * 4), divide_up<std::uint32_t>(call.tokens, tile_tokens), 1},
      {kGemmThreads, 1, 1}, arguments);
}

}  // namespace metal_marlin::msl

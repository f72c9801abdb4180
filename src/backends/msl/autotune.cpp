#include "backends/msl/autotune.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <random>

#include "backends/msl/matrix_unit.h"
#include "base/round_up.h"
#include "io/file_write.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Simdgroups (of 16 rows) and columns (of 8 tokens) that kernels are made for.
constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 11> kTuned{
    {{2, 1}, {2, 2}, {2, 4}, {2, 8}, {4, 1}, {4, 2}, {4, 4}, {4, 8}, {8, 1}, {8, 2}, {8, 4}}};
constexpr int kRuns = 5;

std::string kernel_of(const UnitMatrix& matrix, const TunedTile& tile) {
  return fmt::format("tuned_gemm_{}{}_{}_{}", matrix.codec, scaling_suffix(matrix), tile.rows / 16, tile.tokens / 8);
}

// Half precision's products beside exact ones: 2^-11 an input, far less in their sum.
bool agrees(const std::vector<float>& found, const std::vector<float>& exact) {
  double error = 0;
  double size = 0;
  double worst = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double difference = static_cast<double>(found[i]) - static_cast<double>(exact[i]);
    if (!std::isfinite(difference)) return false;
    error += difference * difference;
    size += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
    worst = std::max(worst, std::fabs(difference));
  }
  const double mean = std::sqrt(size / static_cast<double>(exact.size()));
  return error <= size * 0x1p-18 && worst <= mean * 0x1p-5;
}

}  // namespace

Autotuner::Autotuner(Device& device, std::filesystem::path cache) : device_(device), cache_(std::move(cache)) {
  if (cache_.empty() || !std::filesystem::exists(cache_)) return;
  choices_ = read_json_file(cache_);
  const JsonObject object(choices_, cache_.string());
  for (const auto& [key, value] : choices_.items()) {
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned())
      object.wrong(key.c_str(), "the rows and tokens of a tile");
  }
}

std::vector<TunedTile> Autotuner::tiles(const UnitMatrix& matrix) {
  const std::string kind = matrix.codec + scaling_suffix(matrix);
  constexpr std::array known{"e2m1_g16", "e2m1_g32", "int4_g32", "int4_g64"};
  if (std::find(known.begin(), known.end(), kind) == known.end()) return {};
  std::vector<TunedTile> out;
  for (const auto& [simdgroups, columns] : kTuned) out.push_back({16 * simdgroups, 8 * columns});
  return out;
}

void Autotuner::encode(Device& device, Commands& commands, const UnitMatrix& matrix, const TunedTile& tile,
                       std::int64_t tokens, Buffer& x, Buffer& y, const LinearWorkspace& workspace) {
  encode_prepare(device, commands, DType::kF16, tokens, matrix.cols, matrix.cols, x, workspace);
  const std::uint32_t rows = matrix.params.rows;
  const auto count = static_cast<std::uint32_t>(tokens);
  const std::uint32_t simdgroups = tile.rows / 16;
  commands.dispatch(device.pipeline("kernels_autotune", kernel_of(matrix, tile), tile_constants(device)),
                    {divide_up<std::uint32_t>(rows, tile.rows), divide_up<std::uint32_t>(count, tile.tokens), 1},
                    {32 * simdgroups, 1, 1},
                    Arguments()
                        .buffer(0, *matrix.codes)
                        .buffer(1, *matrix.scales)
                        .buffer(2, *matrix.minima)
                        .buffer(3, workspace.activations())
                        .buffer(4, workspace.factors())
                        .buffer(5, y)
                        .bytes(6, matrix.params)
                        .bytes(7, linear_params(DType::kF16, DType::kF32, tokens, matrix.cols, rows))
                        .threadgroup(0, tile_bytes(device, simdgroups)));
}

void Autotuner::measure(const Linear& linear, std::int64_t tokens) {
  const UnitMatrix& matrix = *linear.quantized();
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(tokens * linear.cols()));
  for (float& v : x) v = normal(random);
  const auto x_buffer = device_.allocate_with(x);
  std::vector<float> exact(static_cast<std::size_t>(tokens * linear.rows()));
  std::vector<float> found(exact.size());
  const std::vector<float> nothing(exact.size(), std::nanf(""));
  const auto y_buffer = device_.allocate(exact.size() * sizeof(float));
  const LinearWorkspace workspace(device_, tokens, linear.cols(), linear.rows());
  const auto run = [&](std::vector<float>& out, const auto& encode) {
    const auto commands = device_.commands();
    encode(*commands);
    commands->commit();
    commands->wait();
    y_buffer->download(std::as_writable_bytes(std::span(out)));
    return commands->seconds();
  };
  run(exact, [&](Commands& commands) {
    Linear::Call call;
    call.x = x_buffer.get();
    call.y = y_buffer.get();
    call.tokens = tokens;
    call.mode = Activations::kF32;
    linear.encode(commands, call, workspace);
  });
  trials_.clear();
  for (const TunedTile& tile : tiles(matrix)) {
    TunedTrial trial{tile, false, 0};
    y_buffer->upload(std::as_bytes(std::span(nothing)));  // what the tile before left would pass
    std::vector<double> seconds;
    const auto encode = [&](Commands& commands) {
      Autotuner::encode(device_, commands, matrix, tile, tokens, *x_buffer, *y_buffer, workspace);
    };
    run(found, encode);
    trial.right = agrees(found, exact);
    for (int i = 0; trial.right && i < kRuns; ++i) seconds.push_back(run(found, encode));
    if (trial.right) {
      std::sort(seconds.begin(), seconds.end());
      trial.seconds = seconds[seconds.size() / 2];
    }
    trials_.push_back(trial);
  }
}

TunedTile Autotuner::choose(const Linear& linear, std::int64_t tokens) {
  trials_.clear();
  if (linear.quantized() == nullptr || tiles(*linear.quantized()).empty()) {
    throw Error(ErrorCode::kUnsupported, "kernels_autotune: has kernels for fp4, nvfp4 and 4-bit integers alone");
  }
  const UnitMatrix& matrix = *linear.quantized();
  const auto bucket =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 1))));
  const std::string key = fmt::format("{}|{}{}|{}x{}|{}", device_.name(), matrix.codec, scaling_suffix(matrix),
                                      linear.rows(), linear.cols(), bucket);
  if (choices_.contains(key)) {
    const TunedTile known{choices_[key][0].get<std::uint32_t>(), choices_[key][1].get<std::uint32_t>()};
    const std::vector<TunedTile> legal = tiles(matrix);
    if (std::find(legal.begin(), legal.end(), known) != legal.end()) return known;
  }
  measure(linear, bucket);
  const TunedTrial* best = nullptr;
  for (const TunedTrial& trial : trials_) {
    if (trial.right && (best == nullptr || trial.seconds < best->seconds)) best = &trial;
  }
  if (best == nullptr) {
    throw Error(ErrorCode::kInternal, fmt::format("kernels_autotune: no tile gives the right product of {}", key));
  }
  choices_[key] = {best->tile.rows, best->tile.tokens};
  save();
  return best->tile;
}

void Autotuner::save() const {
  if (!cache_.empty()) write_file_atomically(cache_, choices_.dump(2) + "\n");
}

}  // namespace metal_marlin::msl

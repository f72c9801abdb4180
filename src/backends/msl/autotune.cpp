#include "backends/msl/autotune.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr int kRuns = 5;

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

void Autotuner::measure(const Linear& linear, std::int64_t tokens) {
  const TiledMatrix& matrix = *linear.quantized();
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
  Linear::Call call;
  call.x = x_buffer.get();
  call.y = y_buffer.get();
  call.tokens = tokens;
  call.mode = Activations::kF32;
  run(exact, [&](Commands& commands) { linear.encode(commands, call, workspace); });
  call.mode = Activations::kInt8;
  std::vector<TunedTile> tiles = tuned_tiles(matrix);
  tiles.emplace_back();  // the usual kernels
  for (const TunedTile& tile : tiles) {
    TunedTrial trial{tile, false, 0};
    y_buffer->upload(std::as_bytes(std::span(nothing)));  // what the tile before left would pass
    std::vector<double> seconds;
    const auto encode = [&](Commands& commands) {
      if (tile.rows == 0) return linear.encode(commands, call, workspace);
      encode_prepare(device_, commands, DType::kF16, tokens, matrix.cols, matrix.cols, *x_buffer, workspace);
      const LinearParams p = linear_params(DType::kF16, DType::kF32, tokens, matrix.cols, matrix.params.rows);
      encode_tuned(device_, commands, matrix, tile, p, *y_buffer, workspace);
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
  if (linear.quantized() == nullptr || tuned_tiles(*linear.quantized()).empty()) {
    throw Error(ErrorCode::kUnsupported, "kernels_autotune: has kernels for fp4, nvfp4 and 4-bit integers alone");
  }
  const TunedProduct product = linear.product_of(tokens);
  if (const auto known = kept_.find(product)) return *known;
  measure(linear,
          static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 1)))));
  const TunedTrial* best = nullptr;
  for (const TunedTrial& trial : trials_) {
    if (trial.right && (best == nullptr || trial.seconds < best->seconds)) best = &trial;
  }
  if (best == nullptr) {
    throw Error(ErrorCode::kInternal,
                fmt::format("kernels_autotune: no tile gives the right product of {}", product.key()));
  }
  kept_.set(product, best->tile);
  return best->tile;
}

}  // namespace metal_marlin::msl

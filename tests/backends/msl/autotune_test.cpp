// Tiles of the tuned product on every executor: each against the product in double, and the
// choice among them.
#include "backends/msl/autotune.h"

#include <cmath>
#include <fstream>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class Autotune : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, Autotune, testing::ValuesIn(executors()), executor_name);

TEST_P(Autotune, EveryTileIsRight) {
  for (const FormatSpec& spec : {default_spec(Format::kFp4), default_spec(Format::kNvfp4), default_spec(Format::kS4),
                                 FormatSpec{Format::kS4, 128, ScaleType::kF16, ZeroKind::kNone}}) {
    for (const auto& [rows, cols, tokens] : {std::tuple{35, 100, 19}, std::tuple{150, 70, 70}}) {
      if (few_shapes() && rows != 35) continue;
      const TestMatrix matrix = packed_matrix(spec, rows, cols, 3);
      const Linear linear(*device, "w", matrix.weight, rows, cols, test_pool());
      const auto w = matrix.decoded();
      const auto x = normal_data(static_cast<std::size_t>(tokens * cols), 4);
      const auto x_buffer = device->allocate_with(x);
      const LinearWorkspace workspace(*device, tokens, cols, rows);
      const std::vector<TunedTile> tiles = tuned_tiles(*linear.quantized());
      ASSERT_EQ(tiles.size(), 11U);
      for (const TunedTile& tile : tiles) {
        std::vector<float> y(static_cast<std::size_t>(tokens * rows), std::nanf(""));
        const auto y_buffer = device->allocate_with(y);
        run([&](Commands& commands) {
          encode_prepare(*device, commands, DType::kF16, tokens, cols, cols, *x_buffer, workspace);
          encode_tuned(*device, commands, *linear.quantized(), tile,
                       linear_params(DType::kF16, DType::kF32, tokens, cols, rows), *y_buffer, workspace);
        });
        y_buffer->download(std::as_writable_bytes(std::span(y)));
        for (std::int64_t t = 0; t < tokens; ++t) {
          for (std::int64_t r = 0; r < rows; ++r) {
            double sum = 0;
            double size = 0;
            for (std::int64_t k = 0; k < cols; ++k) {
              const double term = static_cast<double>(w[static_cast<std::size_t>(r * cols + k)]) *
                                  x[static_cast<std::size_t>(t * cols + k)];
              sum += term;
              size += std::fabs(term);
            }
            ASSERT_NEAR(y[static_cast<std::size_t>(t * rows + r)], sum,
                        size * (0x1.1p-10 + static_cast<double>(cols + 8) * 0x1p-23) + 1e-30)
                << text(spec) << " tile " << tile.rows << " x " << tile.tokens << " token " << t << " row " << r;
          }
        }
      }
    }
  }
}

TEST_P(Autotune, ChoiceIsMeasuredOnceAndKept) {
  const TemporaryFolder folder;
  const auto cache = folder.path() / "tuned.json";
  const TestMatrix matrix = packed_matrix(default_spec(Format::kFp4), 40, 64, 3);
  const Linear linear(*device, "w", matrix.weight, 40, 64, test_pool());
  Autotuner first(*device, TunedTiles(cache));
  const TunedTile chosen = first.choose(linear, 5);
  ASSERT_EQ(first.trials().size(), 12U);  // and the usual kernel
  double best = 1e30;
  for (const TunedTrial& trial : first.trials()) {
    EXPECT_TRUE(trial.right) << trial.tile.rows << " x " << trial.tile.tokens;
    best = std::min(best, trial.seconds);
  }
  EXPECT_GT(best, 0);
  for (const TunedTrial& trial : first.trials()) {
    if (trial.tile == chosen) {
      EXPECT_EQ(trial.seconds, best);
    }
  }
  Autotuner second(*device, TunedTiles(cache));
  EXPECT_EQ(second.choose(linear, 8), chosen);  // of the same power of two
  EXPECT_TRUE(second.trials().empty());
  second.choose(linear, 9);
  EXPECT_EQ(second.trials().size(), 12U);
}

// Products go by the tile that is kept for their device and shape, where they have no bias; by the usual kernels where
// these were faster, and where what is kept is no tile that there is.
TEST_P(Autotune, LinearTakesWhatIsKept) {
  const TestMatrix matrix = packed_matrix(default_spec(Format::kFp4), 40, 64, 3);
  const Linear usual(*device, "w", matrix.weight, 40, 64, test_pool());
  Linear tuned(*device, "w", matrix.weight, 40, 64, test_pool());
  TunedTiles kept({});
  TunedProduct other = usual.product_of(8);
  other.device += "'s sister";
  kept.set(usual.product_of(5), {32, 16});
  kept.set(usual.product_of(16), {});
  kept.set(usual.product_of(32), {48, 16});
  kept.set(other, {64, 8});
  tuned.tune(kept);
  EXPECT_EQ(tuned.tuned_tile(5), (TunedTile{32, 16}));
  EXPECT_EQ(tuned.tuned_tile(8), (TunedTile{32, 16}));
  for (const std::int64_t tokens : {4, 9, 16, 32, 64}) EXPECT_FALSE(tuned.tuned_tile(tokens)) << tokens;
  EXPECT_FALSE(usual.tuned_tile(8));

  const LinearWorkspace workspace(*device, 8, 64, 40);
  const auto x = device->allocate_with(normal_data(std::size_t{7} * 64, 4));
  const auto bias = device->allocate_with(normal_data(40, 5));
  const auto product = [&](const Linear& linear, bool with_bias) {
    const auto y = device->allocate_with(normal_data(std::size_t{7} * 40, 6));
    Linear::Call call;
    call.x = x.get();
    call.y = y.get();
    call.tokens = 7;
    call.accumulate = true;
    call.bias = with_bias ? bias.get() : nullptr;
    call.activation = Activation::kSilu;
    run([&](Commands& commands) { linear.encode(commands, call, workspace); });
    return TypedData(DType::kF32, *y).values;
  };
  for (const bool with_bias : {false, true}) {
    const std::vector<float> expected = product(usual, with_bias);
    const std::vector<float> found = product(tuned, with_bias);
    for (std::size_t i = 0; i < found.size(); ++i)
      ASSERT_NEAR(found[i], expected[i], 1e-4 + 1e-3 * std::fabs(expected[i])) << with_bias << " " << i;
  }
}

TEST_P(Autotune, FaultsAreNamed) {
  const TemporaryFolder folder;
  const auto cache = folder.path() / "tuned.json";
  std::ofstream(cache) << R"({"a": [64]})";
  expect_error(ErrorCode::kCorruptFile, "tuned.json: field a", [&] { TunedTiles{cache}; });
  std::ofstream(cache) << R"({"b": [64, 5000000000]})";
  expect_error(ErrorCode::kCorruptFile, "tuned.json: field b", [&] { TunedTiles{cache}; });
  const TestMatrix matrix = packed_matrix(default_spec(Format::kInt3), 40, 64, 3);
  const Linear linear(*device, "w", matrix.weight, 40, 64, test_pool());
  expect_error(ErrorCode::kUnsupported, "kernels_autotune: has kernels for",
               [&] { Autotuner(*device, TunedTiles({})).choose(linear, 4); });
}

}  // namespace
}  // namespace metal_marlin::msl

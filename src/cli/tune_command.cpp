// `metal-marlin tune`: which tiles a model's products are fastest in on a device.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "backends/msl/autotune.h"
#include "backends/msl/devices.h"
#include "backends/registry.h"
#include "base/shared_pool.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/table.h"
#include "metal_marlin/error.h"
#include "models/architectures.h"

namespace metal_marlin::cli {
namespace {

struct TuneFlags {
  std::string path;
  std::string backend = "msl";
  int tokens = 512;
};

std::string tile_text(const msl::TunedTile& tile) {
  return tile.rows == 0 ? "usual" : fmt::format("{} x {}", tile.rows, tile.tokens);
}

// A row of the table; what was kept already has no times.
std::vector<std::string> row_of(const msl::TunedProduct& product, const msl::TunedTile& best,
                                const std::vector<msl::TunedTrial>& trials) {
  std::vector<std::string> row{fmt::format("{} x {}", product.rows, product.cols),
                               product.kind,
                               fmt::format("{}", product.tokens),
                               tile_text(best),
                               "",
                               ""};
  for (const msl::TunedTrial& trial : trials) {
    if (trial.tile == best) row[4] = fmt::format("{:.1f}", trial.seconds * 1e6);
    if (trial.tile.rows == 0) row[5] = fmt::format("{:.1f}", trial.seconds * 1e6);
  }
  return row;
}

void tune(const TuneFlags& flags) {
  const std::shared_ptr<ThreadPool> pool = shared_pool(0);
  if (!make_backend(flags.backend, {pool, ""})->capabilities().tunable) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--backend is {}, which has no kernels to choose among; expected a GPU's", flags.backend));
  }
  const auto checkpoint = open_checkpoint(flags.path);
  const Plan plan = build_plan(read_model_config(*checkpoint));
  const std::unique_ptr<msl::Device> device = msl::make_device(msl::resolve_device(flags.backend));
  msl::Autotuner tuner(*device, msl::TunedTiles(msl::TunedTiles::default_file()));
  std::vector<std::tuple<FormatSpec, std::int64_t, std::int64_t>> seen;
  std::vector<std::vector<std::string>> rows{{"shape", "kernel", "tokens#", "tile", "us#", "usual us#"}};
  for (const PlannedWeight& planned : planned_weights(plan)) {
    if (!planned.matrix || planned.expert >= 0) continue;
    const WeightInfo& info = checkpoint->require(planned.name, planned.shape);
    if (!info.packed || info.packed->sparse) continue;
    const auto product = std::tuple(*info.packed, planned.shape[0], planned.shape[1]);
    if (std::find(seen.begin(), seen.end(), product) != seen.end()) continue;
    seen.push_back(product);
    const msl::Linear linear(*device, planned.name, checkpoint->load(planned.name, *pool), planned.shape[0],
                             planned.shape[1], *pool);
    if (msl::tuned_tiles(*linear.quantized()).empty()) continue;
    for (std::int64_t tokens = 1; tokens <= flags.tokens; tokens *= 2) {
      if (interrupted()) throw Error(ErrorCode::kCancelled, "tuning was cancelled");
      const msl::TunedTile best = tuner.choose(linear, tokens);
      rows.push_back(row_of(linear.product_of(tokens), best, tuner.trials()));
    }
  }
  fmt::print("{}\n{}: {} products kept in {}\n", render_table(rows), device->name(), rows.size() - 1,
             msl::TunedTiles::default_file().string());
}

}  // namespace

void add_tune(CLI::App& app) {
  auto* const command =
      app.add_subcommand("tune", "Measure which kernels a model's matrices are multiplied fastest by on a GPU");
  auto flags = std::make_shared<TuneFlags>();
  command->add_option("model", flags->path, "Hugging Face folder, quantized folder, GGUF or ONNX file")->required();
  command->add_option("--backend", flags->backend, "msl: the GPU that there is, msl-metal, msl-cuda or msl-host")
      ->capture_default_str();
  command->add_option("--tokens", flags->tokens, "most tokens of a product; powers of two up to it are measured")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->footer(
      "What is fastest is kept in $XDG_CACHE_HOME/metal-marlin/tuned.json and taken by models from then on.\n"
      "Example:\n  metal-marlin tune Qwen3-4B-fp4 --backend msl-cuda");
  command->callback([flags] { tune(*flags); });
}

}  // namespace metal_marlin::cli

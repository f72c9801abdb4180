// The tile of a quantized product that is fastest on a device (shaders/kernels_autotune.metal):
// legal ones alone, each checked against the exact product before it is timed; the choice is
// kept by device, kernel and shape.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "backends/msl/linear.h"
#include "io/json.h"

namespace metal_marlin::msl {

struct TunedTile {
  std::uint32_t rows = 64;
  std::uint32_t tokens = 32;
  bool operator==(const TunedTile&) const = default;
};

// One tile's trial.
struct TunedTrial {
  TunedTile tile;
  bool right = false;  // agrees with the exact product
  double seconds = 0;  // of a product, the median of a few
};

class Autotuner {
 public:
  // cache: a JSON file that choices are read from and written to; empty: none.
  // \throws Error (kCorruptFile) naming the file.
  Autotuner(Device& device, std::filesystem::path cache);

  // Tiles that kernels are made for, for this kind of matrix; none: its kind has no such kernels.
  [[nodiscard]] static std::vector<TunedTile> tiles(const UnitMatrix& matrix);
  // The fastest tile for so many tokens, rounded up to a power of two. Measures where it is not
  // known. \throws Error (kUnsupported) where there are no kernels, (kInternal) where none is right.
  TunedTile choose(const Linear& linear, std::int64_t tokens);
  // Of the last choice, if it was measured.
  [[nodiscard]] const std::vector<TunedTrial>& trials() const { return trials_; }

  // y = W x with a tile; x f32 [tokens][cols], y f32 [tokens][rows].
  static void encode(Device& device, Commands& commands, const UnitMatrix& matrix, const TunedTile& tile,
                     std::int64_t tokens, Buffer& x, Buffer& y, const LinearWorkspace& workspace);

 private:
  void measure(const Linear& linear, std::int64_t tokens);
  void save() const;

  Device& device_;
  std::filesystem::path cache_;
  Json choices_ = Json::object();
  std::vector<TunedTrial> trials_;
};

}  // namespace metal_marlin::msl

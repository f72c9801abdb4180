// The tile of a quantized product that is fastest on a device (shaders/kernels_autotune.metal), beside the
// kernels that are usual: legal ones alone, each checked against the exact product before it is timed; the
// choice is kept by device, kernel and shape, and Linear asks what was kept.
#pragma once

#include <vector>

#include "backends/msl/linear.h"

namespace metal_marlin::msl {

// One tile's trial.
struct TunedTrial {
  TunedTile tile;      // without rows: the usual kernels
  bool right = false;  // agrees with the exact product
  double seconds = 0;  // of a product, the median of a few
};

class Autotuner {
 public:
  Autotuner(Device& device, TunedTiles kept) : device_(device), kept_(std::move(kept)) {}

  // The fastest tile for so many tokens, rounded up to a power of two. Measures where it is not
  // known; the matrix has not been tuned. \throws Error (kUnsupported) where there are no kernels, (kInternal) where
  // none is right.
  TunedTile choose(const Linear& linear, std::int64_t tokens);
  // Of the last choice, if it was measured.
  [[nodiscard]] const std::vector<TunedTrial>& trials() const { return trials_; }

 private:
  void measure(const Linear& linear, std::int64_t tokens);

  Device& device_;
  TunedTiles kept_;
  std::vector<TunedTrial> trials_;
};

}  // namespace metal_marlin::msl

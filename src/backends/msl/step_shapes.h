// Shapes of steps that are encoded once, and the encodings that are kept.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Tokens, or rows of logits, that a step of `count` of them is encoded for, `most` at most: a step for each would fill
// the memory, a sixteenth more costs little. Up to 16 they are as many, above at most an eighth more.
std::int64_t bucket_of(std::int64_t count, std::int64_t most);
// The largest difference between a count and its bucket.
std::int64_t most_padding(std::int64_t most);

struct StepShape {
  std::int64_t tokens = 0;
  std::int64_t selected = 0;
  bool sampled = false;  // what follows the selected ones is drawn
  bool adapted = false;  // some of its sequences have adapters
  bool tiled = false;    // attention goes by tiles of queries
  bool operator==(const StepShape&) const = default;
};

// Encodings by shape; the one that was used longest ago goes when there are too many.
class EncodedSteps {
 public:
  explicit EncodedSteps(std::size_t most) : most_(most) {}
  Commands& get(const StepShape& shape, const std::function<std::unique_ptr<Commands>()>& encode);
  void clear() { kept_.clear(); }
  [[nodiscard]] std::size_t size() const { return kept_.size(); }

 private:
  struct Kept {
    StepShape shape;
    std::unique_ptr<Commands> commands;
  };
  std::size_t most_;
  std::list<Kept> kept_;  // used last first
};

}  // namespace metal_marlin::msl

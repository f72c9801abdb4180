#include "backends/msl/step_shapes.h"

#include <algorithm>
#include <bit>

namespace metal_marlin::msl {

std::int64_t bucket_of(std::int64_t count, std::int64_t most) {
  if (count <= 16) return count;
  const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(count)) / 8);
  return std::min(most, (count + step - 1) / step * step);
}

std::int64_t most_padding(std::int64_t most) {
  std::int64_t padding = 0;
  for (std::int64_t count = 1; count <= most; ++count) padding = std::max(padding, bucket_of(count, most) - count);
  return padding;
}

Commands& EncodedSteps::get(const StepShape& shape, const std::function<std::unique_ptr<Commands>()>& encode) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return kept.shape == shape; });
  if (found != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, found);
    return *kept_.front().commands;
  }
  std::unique_ptr<Commands> commands = encode();
  if (kept_.size() == most_) kept_.pop_back();
  kept_.push_front({shape, std::move(commands)});
  return *kept_.front().commands;
}

}  // namespace metal_marlin::msl

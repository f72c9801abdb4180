#include "backends/msl/metal/barriers.h"

#include <algorithm>

namespace metal_marlin::msl::metal {
namespace {

bool conflict(const Access& a, const Access& b) {
  return (a.writes || b.writes) && a.allocation == b.allocation && a.begin < b.end && b.begin < a.end;
}

}  // namespace

bool Hazards::must_wait(std::span<const Access> accesses) {
  const bool waits = std::any_of(accesses.begin(), accesses.end(), [this](const Access& access) {
    return std::any_of(begun_.begin(), begun_.end(), [&](const Access& other) { return conflict(access, other); });
  });
  if (waits) begun_.clear();
  begun_.insert(begun_.end(), accesses.begin(), accesses.end());
  return waits;
}

}  // namespace metal_marlin::msl::metal

#include "runtime/step_times.h"

#include <algorithm>

namespace metal_marlin {
namespace {

constexpr int kTimesEnough = 2;
constexpr double kFaster = 0.5;  // weight of the newest where it is faster than expected
constexpr double kSlower = 0.15;
constexpr double kTimeForgotten = 0.005;  // of what larger steps took more, with each step

}  // namespace

void StepTimes::record(int tokens, double seconds) {
  const auto at = static_cast<std::size_t>(tokens);
  if (at >= times_.size()) times_.resize(at + 1);
  Time& time = times_[at];
  const double weight = time.seen == 0 ? 1 : seconds < time.seconds ? kFaster : kSlower;
  time.seconds += weight * (seconds - time.seconds);
  ++time.seen;
  // A larger step takes no less, and no more than as many of these as make it up: what was measured when the machine
  // was busy does not stay. What was too slow once is tried again after a while.
  for (std::size_t i = 0; i < times_.size(); ++i) {
    double& other = times_[i].seconds;
    if (i < at) other = std::min(other, time.seconds);
    if (i <= at) continue;
    other = std::min(other, time.seconds * static_cast<double>(i) / static_cast<double>(at));
    other -= kTimeForgotten * std::max(0.0, other - time.seconds);
  }
}

double StepTimes::seconds(int tokens) const {
  for (std::size_t i = std::min(static_cast<std::size_t>(tokens) + 1, times_.size()); i-- > 0;) {
    if (times_[i].seen > 0) return times_[i].seconds;
  }
  return 0;
}

bool StepTimes::knows(int tokens) const {
  const auto at = static_cast<std::size_t>(tokens);
  return at < times_.size() && times_[at].seen >= kTimesEnough;
}

}  // namespace metal_marlin

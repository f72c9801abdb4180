#include "runtime/fair_queue.h"

#include <algorithm>

namespace metal_marlin {

void FairQueue::enter(const Sample& sample) {
  const auto [key, added] = keys_.try_emplace(sample.asked().fair_key);
  if (added && keys_.size() > 1) {
    std::int64_t least = INT64_MAX;
    for (const auto& [name, other] : keys_) {
      if (other.samples > 0) least = std::min(least, other.served);
    }
    key->second.served = least;
  }
  ++key->second.samples;
}

void FairQueue::leave(const Sample& sample) {
  const auto key = keys_.find(sample.asked().fair_key);
  if (--key->second.samples == 0) keys_.erase(key);
}

void FairQueue::serve(const Sample& sample, std::int64_t tokens) {
  keys_.at(sample.asked().fair_key).served += tokens;
}

}  // namespace metal_marlin

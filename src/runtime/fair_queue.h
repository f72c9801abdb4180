// Which of an engine's samples goes first.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/engine_sample.h"

namespace metal_marlin {

// Among samples in the cache: by priority, then as they came.
using Rank = std::tuple<int, RequestId, int>;  // priority, request, sample
inline Rank rank_of(const Sample& sample) {
  return {sample.asked().priority, sample.request().id, sample.index()};
}

// Those that wait. Of the lowest priority that there is, the keys take turns: the one whose requests had the fewest
// tokens computed goes next, and in it who came first. A key that was away begins where the least served one is, so
// that it neither waits for what others had meanwhile nor is owed anything.
class FairQueue {
 public:
  // A sample of a key comes, or goes for good.
  void enter(const Sample& sample);
  void leave(const Sample& sample);
  // Tokens were computed for it.
  void serve(const Sample& sample, std::int64_t tokens);

  void push(Sample* sample) { waiting_.push_back(sample); }
  void remove(Sample* sample) { std::erase(waiting_, sample); }
  // The next one for which `may` holds; null: none.
  template <typename May>
  [[nodiscard]] Sample* next(const May& may) const {
    Sample* best = nullptr;
    for (Sample* const sample : waiting_) {
      if (may(*sample) && (best == nullptr || order_of(*sample) < order_of(*best))) best = sample;
    }
    return best;
  }
  [[nodiscard]] std::span<Sample* const> waiting() const { return waiting_; }

 private:
  struct Key {
    int samples = 0;
    std::int64_t served = 0;
  };
  [[nodiscard]] std::tuple<int, std::int64_t, Rank> order_of(const Sample& sample) const {
    return {sample.asked().priority, keys_.at(sample.asked().fair_key).served, rank_of(sample)};
  }

  std::map<std::string, Key> keys_;  // of those that have samples here or in the cache
  std::vector<Sample*> waiting_;
};

}  // namespace metal_marlin

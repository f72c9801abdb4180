// How long steps take that draw next tokens.
#pragma once

#include <vector>

namespace metal_marlin {

// By how many tokens they have. One step that was held up counts little.
class StepTimes {
 public:
  void record(int tokens, double seconds);
  // Of one with so many tokens; of the next smaller that was seen where none was, so that it is tried; 0: none was.
  [[nodiscard]] double seconds(int tokens) const;
  // Tokens of the largest that was seen.
  [[nodiscard]] int largest() const { return static_cast<int>(times_.size()) - 1; }
  // Whether some with so many were seen.
  [[nodiscard]] bool knows(int tokens) const;

 private:
  struct Time {
    double seconds = 0;
    int seen = 0;
  };
  std::vector<Time> times_;
};

}  // namespace metal_marlin

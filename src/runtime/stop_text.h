// Watches streamed text for stop strings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class StopText {
 public:
  explicit StopText(std::vector<std::string> stops);
  // Takes new text; returns what can be shown: all of it up to a stop string,
  // or up to what may still become one.
  std::string push(std::string_view text);
  // What was held back, when the text ends without a stop string.
  std::string finish();
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace metal_marlin

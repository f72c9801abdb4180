// Watches streamed text for stop strings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class StopText {
 public:
  // `shown`: the stop string that ends a text is part of it.
  explicit StopText(std::vector<std::string> stops, bool shown = false);
  // Takes new text; returns what can be shown: all of it up to a stop string (the one that begins first, of those that
  // begin together the one named first), or up to what may still become one.
  std::string push(std::string_view text);
  // What was held back, when the text ends without a stop string.
  std::string finish();
  [[nodiscard]] bool stopped() const { return stopped_; }
  // The stop string that was found; empty: none was.
  [[nodiscard]] const std::string& found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  bool shown_;
  std::string held_;
  std::string found_;
  bool stopped_ = false;
};

}  // namespace metal_marlin

#include "runtime/stop_text.h"

#include <algorithm>
#include <utility>

namespace metal_marlin {

StopText::StopText(std::vector<std::string> stops, bool shown) : stops_(std::move(stops)), shown_(shown) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopText::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    found_ = stop;
  }
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first + (shown_ ? found_.size() : 0));
    return std::exchange(held_, {});
  }
  std::size_t keep = 0;  // longest suffix that begins a stop string
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopText::finish() {
  return stopped_ ? std::string() : std::exchange(held_, {});
}

}  // namespace metal_marlin

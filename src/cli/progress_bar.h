// A progress bar on the standard error, for work that may take over two seconds.
#pragma once

#include <chrono>
#include <string>

namespace metal_marlin::cli {

class ProgressBar {
 public:
  // unit: what is counted, e.g. "weights".
  ProgressBar(std::string label, std::string unit);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void update(double done, double total, const std::string& detail = {});

 private:
  std::string label_;
  std::string unit_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

// "12.3M"
std::string count_text(double count);

}  // namespace metal_marlin::cli

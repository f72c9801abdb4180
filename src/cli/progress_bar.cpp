#include "cli/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "cli/streams.h"

namespace metal_marlin::cli {
namespace {

constexpr int kWidth = 30;

std::string time_text(double seconds) {
  const auto whole = std::lround(seconds);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace

std::string count_text(double count) {
  constexpr std::array<const char*, 5> kUnits{"", "k", "M", "G", "T"};
  std::size_t unit = 0;
  for (; count >= 1000 && unit + 1 < kUnits.size(); ++unit) count /= 1000;
  return fmt::format("{:.{}f}{}", count, unit == 0 ? 0 : 1, kUnits[unit]);
}

ProgressBar::ProgressBar(std::string label, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

ProgressBar::~ProgressBar() {
  if (drawn_) print_error("\n");
}

void ProgressBar::update(double done, double total, const std::string& detail) {
  const auto now = std::chrono::steady_clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  const bool finished = done >= total;
  // On a terminal ten times a second; in a log a line every ten seconds.
  if (!finished && since < (terminal_ ? 0.1 : 10.0)) return;
  // Work that is over at once needs no bar.
  if (!drawn_ && terminal_ && finished && std::chrono::duration<double>(now - start_).count() < 0.5) return;
  if (finished && !terminal_ && !drawn_) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double fraction = total > 0 ? std::min(done / total, 1.0) : 1.0;
  const double rate = seconds > 0 ? done / seconds : 0;
  const double left = rate > 0 ? (total - done) / rate : 0;
  const int filled = static_cast<int>(fraction * kWidth);
  print_error("{}{} [{:=<{}}{: <{}}] {:3.0f}%  {} {}/s  {} {}  {}{}", terminal_ ? "\r\033[K" : "", label_, "", filled,
              "", kWidth - filled, 100 * fraction, count_text(rate), unit_, finished ? "took" : "ETA",
              time_text(finished ? seconds : left), detail.substr(0, 48), terminal_ ? "" : "\n");
  drawn_ = terminal_;
}

}  // namespace metal_marlin::cli

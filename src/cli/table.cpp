#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace metal_marlin::cli {

std::string render_table(std::vector<std::vector<std::string>> rows) {
  if (rows.empty()) return {};
  std::vector<bool> right;
  for (std::string& name : rows.front()) {
    right.push_back(name.ends_with("#"));
    if (right.back()) name.pop_back();
  }
  std::vector<std::size_t> widths(right.size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (std::size_t i = 0; i < rows[r].size(); ++i) {
      if (i > 0) line += "  ";
      line += right[i] ? fmt::format("{:>{}}", rows[r][i], widths[i]) : fmt::format("{:<{}}", rows[r][i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      std::size_t total = 2 * (widths.size() - 1);
      for (const std::size_t width : widths) total += width;
      out += std::string(total, '-') + "\n";
    }
  }
  return out;
}

double bits_per_weight(std::size_t bytes, std::int64_t weights) {
  return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

}  // namespace metal_marlin::cli

// Aligned text tables.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin::cli {

// First row is the header. Columns whose name ends in "#" (not printed) are
// aligned to the right.
std::string render_table(std::vector<std::vector<std::string>> rows);

// "1.5 MiB"
std::string size_text(double bytes);
// "[576, 1536]"
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace metal_marlin::cli

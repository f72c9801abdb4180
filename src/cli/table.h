// Aligned text tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin::cli {

// First row is the header. Columns whose name ends in "#" (not printed) are
// aligned to the right.
std::string render_table(std::vector<std::vector<std::string>> rows);

double bits_per_weight(std::size_t bytes, std::int64_t weights);

}  // namespace metal_marlin::cli

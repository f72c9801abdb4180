// The target of a request.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_marlin::server {

// The path, with %XX as the bytes that they stand for (one that is none stays as it is).
std::string target_path(std::string_view target);

// What stands behind "?", parted by "&", with %XX likewise; in the order in which it stands there. A name without "="
// has an empty value.
std::vector<std::pair<std::string, std::string>> target_query(std::string_view target);

}  // namespace metal_marlin::server

#include "base/paths.h"

#include <system_error>

namespace metal_marlin {

bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code none;
  return a == b || (std::filesystem::equivalent(a, b, none) && !none);
}

bool lies_in(std::filesystem::path path, const std::filesystem::path& folder) {
  while (!is_same_file(path, folder)) {
    if (path == path.parent_path()) return false;
    path = path.parent_path();
  }
  return true;
}

}  // namespace metal_marlin

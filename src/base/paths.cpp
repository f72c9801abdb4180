#include "base/paths.h"

#include <cstdlib>
#include <system_error>

namespace metal_marlin {
namespace {

// Empty: it is not set.
std::filesystem::path path_of_environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

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

std::filesystem::path cache_folder() {
  if (auto own = path_of_environment("METAL_MARLIN_CACHE"); !own.empty()) return own;
  if (const auto cache = path_of_environment("XDG_CACHE_HOME"); !cache.empty()) return cache / "metal-marlin";
  const auto home = path_of_environment("HOME");
  return home.empty() ? home : home / ".cache/metal-marlin";
}

}  // namespace metal_marlin

// Paths as the file system has them.
#pragma once

#include <filesystem>

namespace metal_marlin {

// Names may differ in case only, or be links to one file.
bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// Whether a path is `folder` or lies in it. Both are absolute, with links resolved.
bool lies_in(std::filesystem::path path, const std::filesystem::path& folder);

// Where this program keeps what it can make or fetch again: METAL_MARLIN_CACHE, else metal-marlin in XDG_CACHE_HOME or
// in
// ~/.cache. Empty: the environment names none.
std::filesystem::path cache_folder();

}  // namespace metal_marlin

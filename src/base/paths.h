// Paths as the file system has them.
#pragma once

#include <filesystem>

namespace metal_marlin {

// Names may differ in case only, or be links to one file.
bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// Whether a path is `folder` or lies in it. Both are absolute, with links resolved.
bool lies_in(std::filesystem::path path, const std::filesystem::path& folder);

}  // namespace metal_marlin

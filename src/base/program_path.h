// Where this program lies.
#pragma once

#include <filesystem>

namespace metal_marlin {

// \throws Error (kInternal) when the system does not tell.
std::filesystem::path program_path();

}  // namespace metal_marlin

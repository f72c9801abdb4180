// The target of a request.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin::server {

// The path, with %XX as the bytes that they stand for (one that is none stays as it is).
std::string target_path(std::string_view target);

}  // namespace metal_marlin::server

// Formats of strings that JSON Schema names.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace metal_marlin {

// The regular expression of all of a text; none: a format that is not known.
std::optional<std::string> pattern_of_format(std::string_view format);

}  // namespace metal_marlin

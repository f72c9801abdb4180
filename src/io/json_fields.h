// How many fields objects of JSON have, before they become values.
#pragma once

#include <cstddef>
#include <string_view>

namespace metal_marlin {

// Fields of the object that has most of them, without those of objects in it. The text may be no JSON.
std::size_t most_json_fields(std::string_view text);
// Of an object that becomes an OrderedJson: it finds a field by a look at all before it, so that reading one with many
// takes the square of their number.
inline constexpr std::size_t kMostJsonFields = 4096;

}  // namespace metal_marlin

// What is known of each number format: the one place that tells one from another. Codecs, the scale search
// and the backends go by these properties, never by the format itself.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "metal_marlin/format.h"

namespace metal_marlin {

enum class ElementKind : std::uint8_t {
  kE2m1,
  kInteger,  // rising by one from the code 0
  kLevels,   // a rising table
  kE4m3,
  kE5m2
};

struct NumberFormat {
  ElementKind kind;
  std::span<const float> values;  // of the codes
  std::uint8_t zero_code;         // whose value is zero, or the nearest to it
  // Ends of the range to which a group's largest magnitude is scaled. None: both ends of two's complement, the
  // longer one for the sign that is the larger.
  std::vector<float> scale_ends;
  float unit;              // values are whole multiples of it; 0: of nothing
  std::string_view codec;  // in the shaders' kernel names (shaders/common/codecs.h)
  float largest_code = 0;  // of integers: what the quantizer keeps to where that is less than the codes' range

  // Of kLevels: a number belongs to the level whose place is how many of these are below it.
  std::vector<float> cuts = {};

  [[nodiscard]] float low() const { return largest_code != 0 ? -largest_code : values.front(); }
  [[nodiscard]] float high() const { return largest_code != 0 ? largest_code : values.back(); }
};
const NumberFormat& number_format(Format format);

}  // namespace metal_marlin

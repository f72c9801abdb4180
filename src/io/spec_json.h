// A FormatSpec as the fields of a JSON object: format, group (a number or "row"), scale_type, zero, and where
// there are some rotation and sparsity.
#pragma once

#include "io/json.h"
#include "metal_marlin/format.h"

namespace metal_marlin {

// defaults: format alone is needed, of the others what is missing is the format's default.
// \throws Error naming the field, or the combination that the format does not allow.
FormatSpec parse_spec(const JsonObject& json, bool defaults);
// Its fields.
Json spec_json(const FormatSpec& spec);

}  // namespace metal_marlin

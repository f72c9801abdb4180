// The fields of config.json: those that are used, those that change nothing here, and the rest.
#pragma once

#include "io/json.h"
#include "models/families/family.h"

namespace metal_marlin {

// \throws Error (kUnsupported) naming a field that is neither used nor known to be harmless: a model that asks for
// something unknown is not run as if it did not.
void check_config_keys(const JsonObject& config, const Architecture& architecture);

}  // namespace metal_marlin

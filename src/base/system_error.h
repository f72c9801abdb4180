// What the system's errors are to us.
#pragma once

#include "metal_marlin/error.h"

namespace metal_marlin {

// kNotFound, kOutOfMemory or kIo, by an errno.
ErrorCode code_of_errno(int reason);

}  // namespace metal_marlin

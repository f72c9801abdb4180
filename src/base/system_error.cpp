#include "base/system_error.h"

#include <cerrno>

namespace metal_marlin {

ErrorCode code_of_errno(int reason) {
  switch (reason) {
    case ENOENT:
    case ENOTDIR: return ErrorCode::kNotFound;
    case ENOMEM:
    case EAGAIN: return ErrorCode::kOutOfMemory;
    default: return ErrorCode::kIo;
  }
}

}  // namespace metal_marlin

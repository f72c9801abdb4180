/// \file
/// The one exception type that the library throws.
#pragma once

#include <stdexcept>
#include <string>

namespace metal_marlin {

/// What went wrong, in the classes a caller may want to treat differently.
/// The numeric value is also the exit status of the command line program.
enum class ErrorCode {
  kInvalidArgument = 2,  ///< A flag, option or call argument is wrong.
  kNotFound = 3,         ///< A file, tensor or key is missing.
  kCorruptFile = 4,      ///< A file contradicts itself or its specification.
  kUnsupported = 5,      ///< Valid input that this version does not implement.
  kIo = 6,               ///< The operating system refused a read or write.
  kOutOfMemory = 7,      ///< The work needs more memory than is available.
  kCancelled = 8,        ///< The caller asked to stop.
  kInternal = 9,         ///< A defect in this library.
  kBusy = 10,            ///< There is too much to do already; later there may be room.
};

/// Every failure of the library. `what()` names the file, tensor, field or
/// flag, what was found and what was expected.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace metal_marlin

#include "base/program_path.h"

#include "metal_marlin/error.h"

#if defined(__APPLE__)
#include <mach-o/dyld.h>

#include <array>
#include <climits>
#endif

namespace metal_marlin {

std::filesystem::path program_path() {
  std::error_code error;
#if defined(__APPLE__)
  std::array<char, PATH_MAX> path{};
  std::uint32_t size = path.size();
  if (_NSGetExecutablePath(path.data(), &size) != 0) error = std::make_error_code(std::errc::filename_too_long);
  std::filesystem::path found = error ? std::filesystem::path() : std::filesystem::canonical(path.data(), error);
#else
  std::filesystem::path found = std::filesystem::read_symlink("/proc/self/exe", error);
#endif
  if (error) throw Error(ErrorCode::kInternal, "cannot tell where this program lies: " + error.message());
  return found;
}

}  // namespace metal_marlin

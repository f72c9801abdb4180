#include "io/file_write.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "metal_marlin/error.h"

namespace metal_marlin {

void fail_file(const std::filesystem::path& path, const char* action) {
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(errno)));
}

void write_fully(int descriptor, std::span<const std::byte> bytes, std::int64_t offset,
                 const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_file(path, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += written;
  }
}

}  // namespace metal_marlin

#include "io/text_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/system_error.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kLongestFile = std::size_t{1} << 30;
constexpr std::size_t kLongestStream = std::size_t{1} << 28;
constexpr std::size_t kPiece = std::size_t{1} << 16;

[[noreturn]] void fail(const std::string& name, const char* action) {
  const int reason = errno;
  throw Error(reason == EINTR ? ErrorCode::kCancelled : code_of_errno(reason),
              fmt::format("{}: cannot {}: {}", name, action, std::strerror(reason)));
}

std::string read_all(int descriptor, const std::string& name) {
  struct stat status {};
  if (fstat(descriptor, &status) != 0) fail(name, "read");
  if (S_ISDIR(status.st_mode)) throw Error(ErrorCode::kIo, fmt::format("{}: not a regular file", name));
  const bool file = S_ISREG(status.st_mode);
  const std::size_t longest = file ? kLongestFile : kLongestStream;
  std::string text;
  if (file) text.reserve(std::min(static_cast<std::size_t>(status.st_size), longest) + kPiece);
  while (true) {
    const std::size_t before = text.size();
    text.resize(before + kPiece);
    const ssize_t count = read(descriptor, text.data() + before, kPiece);
    if (count < 0) fail(name, "read");
    text.resize(before + static_cast<std::size_t>(count));
    if (count == 0) return text;
    if (text.size() > longest)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: longer than {} bytes", name, longest));
  }
}

}  // namespace

std::string read_text_file(const std::filesystem::path& path) {
  if (path == "-") return read_all(STDIN_FILENO, "standard input");
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(path.string(), "open");
  try {
    std::string text = read_all(descriptor, path.string());
    close(descriptor);
    return text;
  } catch (...) {
    close(descriptor);
    throw;
  }
}

}  // namespace metal_marlin

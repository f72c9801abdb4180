#include "io/row_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* action) {
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(errno)));
}

// Calls transfer(bytes done, bytes left) until nothing is left.
template <typename Transfer>
void transfer_all(std::size_t bytes, const std::filesystem::path& path, const char* action, const Transfer& transfer) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t count = transfer(done, bytes - done);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = EIO;
    if (count <= 0) fail(path, action);
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

RowFile::RowFile(const std::filesystem::path& path, std::int64_t rows, std::int64_t width, Open how)
    : path_(path), width_(width) {
  const bool fresh = how == Open::kNew;
  descriptor_ = open(path.c_str(), O_RDWR | O_CLOEXEC | (fresh ? O_CREAT | O_TRUNC : 0), 0644);
  if (descriptor_ < 0) fail(path, fresh ? "create" : "open");
  const auto size = static_cast<off_t>(rows * width * static_cast<std::int64_t>(sizeof(float)));
  struct stat status {};
  if (fresh ? ftruncate(descriptor_, size) != 0 : fstat(descriptor_, &status) != 0) {
    close(descriptor_);
    fail(path, "size");
  }
  if (!fresh && status.st_size != size) {
    close(descriptor_);
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: found {} bytes, expected {}", path.string(), status.st_size, size));
  }
}

RowFile::~RowFile() {
  close(descriptor_);
}

void RowFile::write(std::int64_t first, std::int64_t rows, const float* x) {
  const auto row = static_cast<std::size_t>(width_) * sizeof(float);
  const auto* const from = reinterpret_cast<const char*>(x);
  transfer_all(static_cast<std::size_t>(rows) * row, path_, "write", [&](std::size_t done, std::size_t left) {
    return pwrite(descriptor_, from + done, left, static_cast<off_t>(static_cast<std::size_t>(first) * row + done));
  });
}

void RowFile::read(std::int64_t first, std::int64_t rows, float* x) const {
  const auto row = static_cast<std::size_t>(width_) * sizeof(float);
  auto* const to = reinterpret_cast<char*>(x);
  transfer_all(static_cast<std::size_t>(rows) * row, path_, "read", [&](std::size_t done, std::size_t left) {
    return pread(descriptor_, to + done, left, static_cast<off_t>(static_cast<std::size_t>(first) * row + done));
  });
}

void RowFile::sync() const {
  if (fdatasync(descriptor_) != 0) fail(path_, "flush");
}

}  // namespace metal_marlin

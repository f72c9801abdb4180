#include "io/row_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <span>

#include "io/file_write.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

RowFile::RowFile(const std::filesystem::path& path, std::int64_t rows, std::int64_t width, Open how)
    : path_(path), width_(width) {
  const bool fresh = how == Open::kNew;
  descriptor_ = open(path.c_str(), O_RDWR | O_CLOEXEC | (fresh ? O_CREAT | O_TRUNC : 0), 0644);
  if (descriptor_ < 0) fail_file(path, fresh ? "create" : "open");
  const auto size = static_cast<off_t>(offset_of(rows));
  struct stat status {};
  if (fresh ? ftruncate(descriptor_, size) != 0 : fstat(descriptor_, &status) != 0) {
    close(descriptor_);
    fail_file(path, "size");
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
  write_fully(descriptor_, std::as_bytes(std::span(x, static_cast<std::size_t>(rows * width_))), offset_of(first),
              path_);
}

void RowFile::read(std::int64_t first, std::int64_t rows, float* x) const {
  auto bytes = std::as_writable_bytes(std::span(x, static_cast<std::size_t>(rows * width_)));
  for (std::int64_t at = offset_of(first); !bytes.empty();) {
    const ssize_t count = pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = EIO;  // the file has become shorter
    if (count <= 0) fail_file(path_, "read");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    at += count;
  }
}

void RowFile::sync() const {
  if (fdatasync(descriptor_) != 0) fail_file(path_, "flush");
}

}  // namespace metal_marlin

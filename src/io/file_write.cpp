#include "io/file_write.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/system_error.h"
namespace metal_marlin {
namespace {

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags, const char* action)
      : path_(path), value_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (value_ < 0) fail_file(path, action);
  }
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int value() const { return value_; }
  void sync() const {
    if (fsync(value_) != 0) fail_file(path_, "flush");
  }
  // Some file systems tell only now that the disk was full.
  void close() {
    if (::close(std::exchange(value_, -1)) != 0) fail_file(path_, "write");
  }

 private:
  const std::filesystem::path& path_;
  int value_;
};

}  // namespace

void fail_file(const std::filesystem::path& path, const char* action) {
  const int reason = errno;
  const bool memory = code_of_errno(reason) == ErrorCode::kOutOfMemory;
  throw Error(memory ? ErrorCode::kOutOfMemory : ErrorCode::kIo,
              fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(reason)));
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

void append_to_file(const std::filesystem::path& path, std::string_view text) {
  Descriptor file(path, O_WRONLY | O_CREAT, "open");
  struct stat status {};
  if (fstat(file.value(), &status) != 0) fail_file(path, "size");
  write_fully(file.value(), std::as_bytes(std::span(text)), status.st_size, path);
  file.close();
}

void write_and_sync(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC, "create");
  write_fully(file.value(), bytes, 0, path);
  file.sync();
  file.close();
}

void sync_folder(const std::filesystem::path& path) {
  Descriptor(path, O_RDONLY | O_DIRECTORY, "open").sync();
}

std::filesystem::path parent_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

OutputFile::OutputFile(const std::filesystem::path& path) : path_(path), partial_(path) {
  std::error_code none;
  const auto there = std::filesystem::status(path, none).type();
  if (there != std::filesystem::file_type::not_found && there != std::filesystem::file_type::regular)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: not a regular file, cannot be replaced", path.string()));
  if (!path.has_filename())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("'{}': expected the name of a file to write", path.string()));
  partial_ += ".partial";
  // What is left of another run may be a link: it must not be written through.
  std::filesystem::remove(partial_, none);
}

OutputFile::~OutputFile() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove(partial_, ignored);
}

void OutputFile::commit() {
  std::error_code error;
  std::filesystem::rename(partial_, path_, error);
  if (error) throw Error(ErrorCode::kIo, fmt::format("{}: cannot rename: {}", partial_.string(), error.message()));
  committed_ = true;
  sync_folder(parent_of(path_));
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  OutputFile file(path);
  write_and_sync(file.partial(), bytes);
  file.commit();
}

}  // namespace metal_marlin

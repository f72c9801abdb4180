#include "io/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "io/file_write.h"

namespace metal_marlin {
namespace {

constexpr std::chrono::milliseconds kLockPause{50};

// Whoever held a lock may have removed its file: a lock on what has no name any more keeps nobody away.
bool is_named(int descriptor, const std::filesystem::path& path) {
  struct stat opened {};
  struct stat named {};
  return fstat(descriptor, &opened) == 0 && stat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

}  // namespace

std::optional<FileLock> FileLock::try_take(const std::filesystem::path& path, Kind kind) {
  std::error_code ignored;  // opening says it
  std::filesystem::create_directories(parent_of(path), ignored);
  for (;;) {
    FileLock lock(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (lock.descriptor_ < 0) fail_file(path, "open");
    if (flock(lock.descriptor_, (kind == Kind::kShared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::nullopt;
      if (errno != EINTR) fail_file(path, "lock");
    } else if (is_named(lock.descriptor_, path)) {
      return lock;
    }
  }
}

FileLock FileLock::take(const std::filesystem::path& path, Kind kind, const std::function<void()>& waiting) {
  for (;;) {
    if (auto lock = try_take(path, kind)) return std::move(*lock);
    waiting();
    std::this_thread::sleep_for(kLockPause);
  }
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

void FileLock::touch() const {
  futimens(descriptor_, nullptr);
}

}  // namespace metal_marlin

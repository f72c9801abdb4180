// Locks among processes, on files that are there for nothing else.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

namespace metal_marlin {

class FileLock {
 public:
  enum class Kind { kShared, kExclusive };

  // Makes the file, and the folder that it lies in, where they are not there. Nothing: others hold the lock.
  // \throws Error (kIo) naming the file.
  static std::optional<FileLock> try_take(const std::filesystem::path& path, Kind kind);
  // Waits for others; `waiting` is called again and again meanwhile, and gives up by throwing.
  static FileLock take(const std::filesystem::path& path, Kind kind, const std::function<void()>& waiting);

  ~FileLock();
  FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileLock& operator=(FileLock&&) = delete;

  // Sets the file's time to now.
  void touch() const;

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace metal_marlin

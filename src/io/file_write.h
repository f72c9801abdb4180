// Writing files to the end, and errors of files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "metal_marlin/error.h"

namespace metal_marlin {

// \throws Error (kIo; kOutOfMemory where the system has no more): the path, "cannot" with the action, and what
// errno says.
[[noreturn]] void fail_file(const std::filesystem::path& path, const char* action);

// All bytes, from `offset` of the file on, whatever interrupts. \throws Error (kIo) naming the path.
void write_fully(int descriptor, std::span<const std::byte> bytes, std::int64_t offset,
                 const std::filesystem::path& path);

// At the end of a file, made if it is not there. \throws Error (kIo) naming it.
void append_to_file(const std::filesystem::path& path, std::string_view text);
// Makes or replaces a file, flushed to the disk. \throws Error (kIo) naming it.
void write_and_sync(const std::filesystem::path& path, std::span<const std::byte> bytes);
void sync_folder(const std::filesystem::path& path);
// The folder that a path lies in, "." where it names none.
std::filesystem::path parent_of(const std::filesystem::path& path);

// A file that appears under its name only when it is complete: whoever writes it does so under partial()'s.
class OutputFile {
 public:
  // \throws Error (kInvalidArgument) when something other than a file has the name.
  explicit OutputFile(const std::filesystem::path& path);
  // Removes what was not committed.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  [[nodiscard]] const std::filesystem::path& partial() const { return partial_; }
  // Gives the file, whose content is on the disk, its name.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  bool committed_ = false;
};

// Writes a file under a temporary name, flushes and renames it.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
inline void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text)));
}

}  // namespace metal_marlin

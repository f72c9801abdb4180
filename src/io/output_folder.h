// A folder that appears under its name only when it is complete.
#pragma once

#include <filesystem>
#include <string>

namespace metal_marlin {

class OutputFolder {
 public:
  // Works in a folder "<destination>.partial-XXXXXX" of its own, and removes
  // such folders that a killed process left. \throws Error (kInvalidArgument)
  // when the destination exists and overwrite is false.
  OutputFolder(const std::filesystem::path& destination, bool overwrite);
  // Removes what was not committed.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return partial_; }
  // Writes and flushes a whole file.
  void write_file(const std::string& name, const std::string& text);
  // Flushes the folder and gives it its name.
  void commit();

 private:
  std::filesystem::path destination_;
  std::filesystem::path partial_;
  bool overwrite_;
  bool committed_ = false;
  int lock_ = -1;  // held on the partial folder while its owner lives
};

// Writes a file under a temporary name, flushes and renames it.
void write_file_atomically(const std::filesystem::path& path, const std::string& text);

}  // namespace metal_marlin

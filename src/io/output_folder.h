// A folder that appears under its name only when it is complete.
#pragma once

#include <filesystem>
#include <string>

namespace metal_marlin {

class OutputFolder {
 public:
  // Works in "<destination>.partial", which it empties first. \throws Error
  // (kInvalidArgument) when the destination exists and overwrite is false.
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
  bool committed_ = false;
};

// Writes a file under a temporary name, flushes and renames it.
void write_file_atomically(const std::filesystem::path& path, const std::string& text);

}  // namespace metal_marlin

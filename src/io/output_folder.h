// A folder that appears under its name only when it is complete.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace metal_marlin {

class OutputFolder {
 public:
  // Works in a folder "<destination>.partial-XXXXXX" of its own, and removes
  // such folders that a killed process left; but goes on in the first of them that
  // `adopt` wants. \throws Error (kInvalidArgument) when the destination exists and
  // overwrite is false, or is no folder.
  OutputFolder(const std::filesystem::path& destination, bool overwrite,
               const std::function<bool(const std::filesystem::path& abandoned)>& adopt = {});
  // Removes what was neither committed nor kept.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return partial_; }
  // Writes and flushes a whole file, in a folder of this one where its name says so.
  void write_file(const std::string& name, const std::string& text);
  [[nodiscard]] bool adopted() const { return adopted_; }
  // Leaves the folder as if the process were killed, for another to go on in.
  void keep() { kept_ = true; }
  // Flushes the folder and gives it its name.
  void commit();

 private:
  std::filesystem::path destination_;
  std::filesystem::path partial_;
  bool overwrite_;
  bool adopted_ = false;
  bool kept_ = false;
  bool committed_ = false;
  int lock_ = -1;  // held on the partial folder while its owner lives
};

}  // namespace metal_marlin

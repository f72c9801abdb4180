// Rows of floats in a file, so that they take no memory but what the system has left over for files.
#pragma once

#include <cstdint>
#include <filesystem>

namespace metal_marlin {

class RowFile {
 public:
  // Makes the file, or opens one of `rows` rows that is there. \throws Error (kIo, kCorruptFile)
  // naming it.
  enum class Open : std::uint8_t { kNew, kExisting };
  RowFile(const std::filesystem::path& path, std::int64_t rows, std::int64_t width, Open open);
  ~RowFile();
  RowFile(const RowFile&) = delete;
  RowFile& operator=(const RowFile&) = delete;

  [[nodiscard]] std::int64_t width() const { return width_; }
  void write(std::int64_t first, std::int64_t rows, const float* x);
  void read(std::int64_t first, std::int64_t rows, float* x) const;
  // What was written is on the disk.
  void sync() const;

 private:
  // Of a row, in bytes.
  [[nodiscard]] std::int64_t offset_of(std::int64_t row) const {
    return row * width_ * static_cast<std::int64_t>(sizeof(float));
  }

  std::filesystem::path path_;
  std::int64_t width_;
  int descriptor_ = -1;
};

}  // namespace metal_marlin

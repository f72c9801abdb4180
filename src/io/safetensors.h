// The safetensors container: 8 bytes little-endian header size, a JSON header,
// raw tensor bytes (https://huggingface.co/docs/safetensors, format 0.3+).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/dtype.h"
#include "io/mapped_file.h"

namespace metal_marlin {

// Tensors of a header, as views into `bytes`. `where` names the file in errors.
// \throws Error (kCorruptFile) on any contradiction: header past the end,
// unknown type, offsets out of range or overlapping, size unequal to shape.
std::map<std::string, DenseView> parse_safetensors(std::span<const std::byte> bytes, const std::string& where);

// What the header says beside them, text by name; empty where it says nothing. \throws as parse_safetensors.
std::map<std::string, std::string> parse_safetensors_metadata(std::span<const std::byte> bytes,
                                                              const std::string& where);

// One mapped file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  [[nodiscard]] const std::map<std::string, DenseView>& tensors() const { return tensors_; }
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  void release() const { file_.release(); }

 private:
  MappedFile file_;
  std::map<std::string, DenseView> tensors_;
};

// All tensors of a model folder (weight_files).
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::filesystem::path& folder);
  // Null when there is none.
  [[nodiscard]] const DenseView* find(const std::string& name) const;
  [[nodiscard]] const std::map<std::string, DenseView>& tensors() const { return tensors_; }
  // The file a tensor comes from, for errors.
  [[nodiscard]] std::string where(const std::string& name) const;
  // As MappedFile's.
  void release() const;

 private:
  void add(const std::filesystem::path& path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, DenseView> tensors_;
  std::map<std::string, const SafetensorsFile*> owners_;
};

// What the writer must know of a tensor before any data.
struct TensorPlan {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  [[nodiscard]] std::size_t bytes() const;
};

struct SafetensorsOptions {
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  unsigned mode = 0644;  // of a file that is made
  // A file of this plan is there, some of whose tensors were written before.
  bool resume = false;
};

// Streams tensors into one file, in the planned order or another; holds none of them.
// The file is complete, and on disk, only after finish().
class SafetensorsWriter {
 public:
  // \throws Error (kCorruptFile) if the plan of a file to go on with was another.
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorPlan>& plan,
                    const SafetensorsOptions& options = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Goes to where a tensor begins.
  void seek(const std::string& tensor);
  // Writes bytes where the last ones ended; tensors follow each other without gaps.
  void write(std::span<const std::byte> bytes);
  // Tensors of so many bytes were written before.
  void skip(std::size_t bytes);
  // What was written is on the disk.
  void sync();
  // Flushes to the disk. \throws Error (kInternal) if tensors are missing.
  void finish();

 private:
  void write_all(std::span<const std::byte> bytes);

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::map<std::string, std::size_t> offsets_;  // in the file
  std::size_t at_ = 0;                          // where the next bytes go
  std::size_t remaining_ = 0;                   // bytes that were not written yet
};

}  // namespace metal_marlin

// A hub that speaks the Hugging Face API: what a repository holds, and its files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace metal_marlin::cli {

struct HubFile {
  std::string name;  // "config.json", "onnx/model.onnx"
  std::int64_t size = 0;
  std::string sha256;  // of large files, or
  std::string blob;    // git's: SHA-1 of "blob SIZE\0" and the bytes

  // Empty: the hub tells none.
  [[nodiscard]] const std::string& checksum() const { return sha256.empty() ? blob : sha256; }
};

struct HubRevision {
  std::string commit;
  std::vector<HubFile> files;
};

class Hub {
 public:
  // endpoint: "https://huggingface.co"; token: empty for none.
  Hub(const std::string& endpoint, const std::string& token);
  ~Hub();
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  // revision: a branch, tag or commit. \throws Error (kNotFound) when there is none, or it takes another
  // token to see it; (kIo) naming the address; (kCorruptFile) when the answer is not what the API says.
  [[nodiscard]] HubRevision revision(const std::string& repository, const std::string& revision) const;

  // false: stop.
  using Progress = std::function<bool(std::int64_t bytes)>;
  // Fetches a file to `path`, which appears when it is complete and its checksum right. What a run that was
  // cut off left in "<path>.<checksum>.partial" is gone on with. \throws Error (kIo, kCorruptFile,
  // kCancelled) naming address or file.
  void fetch(const std::string& repository, const std::string& commit, const HubFile& file,
             const std::filesystem::path& path, const Progress& progress) const;

  // Whether a file on the disk is the one.
  [[nodiscard]] static bool is_complete(const HubFile& file, const std::filesystem::path& path);

 private:
  struct Connection;
  std::string endpoint_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace metal_marlin::cli

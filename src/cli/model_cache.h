// Models of hubs that lie in the cache folder, as they were published and quantized:
//   models/ORG/NAME, models/ORG/NAME@FORMAT   each with a file that says that it is complete
//   models/ORG/.NAME.lock                     held by whoever uses (shared), makes or removes (exclusive) it
// Lock files' times are when models were used last.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_lock.h"

namespace metal_marlin::cli {

// Whether a text is ORG/NAME, of parts that are good names of folders.
bool is_repository(std::string_view text);

struct CachedModel {
  std::string name;    // "ORG/NAME", or "ORG/NAME@FORMAT"
  std::string format;  // that it was quantized to; empty: it is as published
  std::filesystem::path folder;
  std::uintmax_t bytes = 0;
  std::optional<std::chrono::system_clock::time_point> last_used;
  bool complete = false;
  bool in_use = false;
};

class ModelCache {
 public:
  // In cache_folder(). \throws Error (kInvalidArgument) when the environment names none.
  ModelCache();

  [[nodiscard]] std::filesystem::path folder(const std::string& name) const { return root_ / name; }
  [[nodiscard]] std::filesystem::path lock_file(const std::string& name) const;
  // What there is, by name.
  [[nodiscard]] std::vector<CachedModel> models() const;
  // Whether all that mark_complete() saw is there.
  [[nodiscard]] bool is_complete(const std::string& name) const;
  void mark_complete(const std::string& name) const;
  // \throws Error (kNotFound) when it is not there, (kInvalidArgument) when the name is none, or of a link, (kIo) when
  // it is in use.
  void remove(const std::string& name) const;
  // The same, but that nothing is removed.
  void check_removable(const std::string& name) const;

 private:
  [[nodiscard]] std::vector<std::filesystem::path> folders(const std::string& name) const;
  std::filesystem::path root_;
};

}  // namespace metal_marlin::cli

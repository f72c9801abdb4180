// Paths and readers of the tests' reference files.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

inline std::filesystem::path test_data(const std::string& name) {
  return std::filesystem::path(METAL_MARLIN_TEST_DATA) / name;
}

// Data that belongs to others and is not committed; nothing where it is not there.
inline std::optional<std::filesystem::path> shared_data(const std::string& name) {
  const char* const variable = std::getenv("METAL_MARLIN_DATA");
  const auto path = std::filesystem::path(variable != nullptr ? variable : METAL_MARLIN_SHARED_DATA) / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

template <typename T>
std::vector<T> read_tensor(const SafetensorsFile& file, const std::string& name) {
  const DenseView& view = file.tensors().at(name);
  std::vector<T> out(view.bytes.size() / sizeof(T));
  std::memcpy(out.data(), view.bytes.data(), view.bytes.size());
  return out;
}

// A fresh folder under the system's temporary one, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "metal-marlin-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Runs `action`, which must throw an Error with this code and this text in it.
template <typename Action>
void expect_error(ErrorCode code, const std::string& text, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one about: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

}  // namespace metal_marlin

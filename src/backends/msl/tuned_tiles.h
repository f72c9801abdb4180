// The tiles of quantized products that were fastest where they were measured, in a file (autotune.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace metal_marlin::msl {

// Of a kernel of kernels_autotune; without rows: those of the other shaders were faster.
struct TunedTile {
  std::uint32_t rows = 0;
  std::uint32_t tokens = 0;
  bool operator==(const TunedTile&) const = default;
};

// A product: kind is the codec and how it is scaled, as kernels' names have them.
struct TunedProduct {
  std::string device;
  std::string kind;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t tokens = 0;  // found by the power of two that they are rounded up to

  [[nodiscard]] std::string key() const;
};

class TunedTiles {
 public:
  // The user's: tuned.json in cache_folder().
  static std::filesystem::path default_file();
  // file: need not be there; empty: none. \throws Error (kCorruptFile) naming file and field.
  explicit TunedTiles(std::filesystem::path file);
  // Nothing: it was never measured.
  [[nodiscard]] std::optional<TunedTile> find(const TunedProduct& product) const;
  // Keeps it, in the file too.
  void set(const TunedProduct& product, const TunedTile& tile);

 private:
  std::filesystem::path file_;
  std::map<std::string, TunedTile> tiles_;
};

}  // namespace metal_marlin::msl

#include "backends/msl/tuned_tiles.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "base/paths.h"
#include "io/file_write.h"
#include "io/json.h"

namespace metal_marlin::msl {

std::string TunedProduct::key() const {
  const auto bucket = std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 1)));
  return fmt::format("{}|{}|{}x{}|{}", device, kind, rows, cols, bucket);
}

std::filesystem::path TunedTiles::default_file() {
  const std::filesystem::path folder = cache_folder();
  return folder.empty() ? folder : folder / "tuned.json";
}

TunedTiles::TunedTiles(std::filesystem::path file) : file_(std::move(file)) {
  if (file_.empty() || !std::filesystem::exists(file_)) return;
  const Json json = read_json_file(file_);
  const JsonObject object(json, file_.string());
  for (const auto& [key, value] : json.items()) {
    const auto is_count = [](const Json& v) { return v.is_number_unsigned() && v.get<std::uint64_t>() <= 4096; };
    if (!value.is_array() || value.size() != 2 || !is_count(value[0]) || !is_count(value[1]))
      object.wrong(key.c_str(), "the rows and tokens of a tile");
    tiles_[key] = {value[0].get<std::uint32_t>(), value[1].get<std::uint32_t>()};
  }
}

std::optional<TunedTile> TunedTiles::find(const TunedProduct& product) const {
  const auto found = tiles_.find(product.key());
  return found == tiles_.end() ? std::nullopt : std::optional(found->second);
}

void TunedTiles::set(const TunedProduct& product, const TunedTile& tile) {
  tiles_[product.key()] = tile;
  if (file_.empty()) return;
  Json json = Json::object();
  for (const auto& [key, kept] : tiles_) json[key] = {kept.rows, kept.tokens};
  std::filesystem::create_directories(file_.parent_path());
  write_file_atomically(file_, json.dump(2) + "\n");
}

}  // namespace metal_marlin::msl

#include "io/fingerprint.h"

#include <fmt/format.h>

#include <set>

#include "base/word_hash.h"
#include "io/mapped_file.h"

namespace metal_marlin {
namespace {

// A matrix takes more of its file than a thousandth, or there are many of its kind.
constexpr std::size_t kPlaces = 1024;
constexpr std::size_t kPlaceBytes = 64;

std::uint64_t sample_hash(std::span<const std::byte> bytes, std::uint64_t hash) {
  if (bytes.size() <= kPlaces * kPlaceBytes) return hash_of_words(bytes, hash);
  const std::size_t apart = (bytes.size() - kPlaceBytes) / (kPlaces - 1);
  for (std::size_t i = 0; i < kPlaces; ++i) hash = hash_of_words(bytes.subspan(i * apart, kPlaceBytes), hash);
  return hash;
}

}  // namespace

std::uint64_t fingerprint_of(const Checkpoint& checkpoint, std::span<const std::string> weights) {
  std::string text = checkpoint.config().dump(-1, ' ', false, Json::error_handler_t::replace);
  std::set<std::string> files;
  for (const std::string& name : weights) {
    const WeightInfo* const info = checkpoint.find(name);
    if (info == nullptr) continue;  // one that another stands for
    files.insert(checkpoint.where(name));
    text += fmt::format("\n{} {} {} {}", name, info->stored_as, shape_text(info->shape), info->bytes);
  }
  std::uint64_t hash = hash_of_words(std::as_bytes(std::span(text)));
  for (const std::string& file : files) hash = sample_hash(MappedFile(file).bytes(), hash);
  return hash;
}

}  // namespace metal_marlin

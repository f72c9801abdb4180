#include "io/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/file_kind.h"
#include "io/file_write.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::uint64_t kMaxHeader = 100U << 20;  // the reference implementation's limit

[[noreturn]] void corrupt(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, where + ": " + what);
}

std::uint64_t offset_at(const Json& offsets, std::size_t index, const std::string& where) {
  if (!offsets[index].is_number_unsigned()) corrupt(where, "data_offsets are not two non-negative integers");
  return offsets[index].get<std::uint64_t>();
}

DenseView parse_entry(const Json& json, std::span<const std::byte> data, const std::string& where) {
  const JsonObject entry(json, where);
  DenseView view;
  const std::string dtype = entry.string("dtype");
  const auto known = dtype_from_name(dtype);
  if (!known) corrupt(where, fmt::format("unknown dtype {}", dtype));
  view.dtype = *known;
  const Json& shape = entry.at("shape");
  const Json& offsets = entry.at("data_offsets");
  if (!shape.is_array()) entry.wrong("shape", "an array");
  if (!offsets.is_array() || offsets.size() != 2) entry.wrong("data_offsets", "two integers");
  for (const Json& dimension : shape) {
    if (!dimension.is_number_unsigned()) entry.wrong("shape", "non-negative integers");
    view.shape.push_back(static_cast<std::int64_t>(std::min<std::uint64_t>(dimension.get<std::uint64_t>(), INT64_MAX)));
  }
  const std::uint64_t begin = offset_at(offsets, 0, where);
  const std::uint64_t end = offset_at(offsets, 1, where);
  if (begin > end || end > data.size()) {
    corrupt(where, fmt::format("data_offsets [{}, {}] lie outside the file's {} data bytes", begin, end, data.size()));
  }
  const auto count = element_count(view.shape);
  const auto expected = count ? stored_bytes(view.dtype, *count) : std::nullopt;
  if (!expected || *expected != end - begin) {
    corrupt(where,
            fmt::format("shape {} of {} does not take the {} bytes given", shape_text(view.shape), dtype, end - begin));
  }
  view.bytes = data.subspan(begin, end - begin);
  return view;
}

void check_overlaps(const std::map<std::string, DenseView>& tensors, const std::string& where) {
  struct Extent {
    const std::byte* begin;
    const std::byte* end;
    const std::string* name;
  };
  std::vector<Extent> extents;
  for (const auto& [name, view] : tensors) {
    if (!view.bytes.empty()) extents.push_back({view.bytes.data(), view.bytes.data() + view.bytes.size(), &name});
  }
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin < extents[i - 1].end) {
      corrupt(where, fmt::format("tensors {} and {} overlap", *extents[i - 1].name, *extents[i].name));
    }
  }
}

std::string_view header_text(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < 8) corrupt(where, fmt::format("{} bytes, too short for a safetensors header", bytes.size()));
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  if (header_size > bytes.size() - 8 || header_size > kMaxHeader) {
    if (header_size > kMaxHeader) refuse_foreign(bytes, where);  // otherwise it is one that was cut
    corrupt(where, fmt::format("header of {} bytes in a file of {}", header_size, bytes.size()));
  }
  return {reinterpret_cast<const char*>(bytes.data()) + 8, header_size};
}

}  // namespace

std::map<std::string, DenseView> parse_safetensors(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text = header_text(bytes, where);
  const Json json = parse_json(text, where + ": header");
  const JsonObject header(json, where + ": header");
  const std::span<const std::byte> data = bytes.subspan(8 + text.size());
  std::map<std::string, DenseView> tensors;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    tensors.emplace(name, parse_entry(entry, data, fmt::format("{}: tensor {}", where, name)));
  }
  check_overlaps(tensors, where);
  return tensors;
}

std::map<std::string, std::string> parse_safetensors_metadata(std::span<const std::byte> bytes,
                                                              const std::string& where) {
  const Json json = parse_json(header_text(bytes, where), where + ": header");
  const JsonObject header(json, where + ": header");
  std::map<std::string, std::string> out;
  if (!json.contains("__metadata__")) return out;
  const Json& metadata = header.at("__metadata__");
  if (!metadata.is_object()) header.wrong("__metadata__", "an object");
  const JsonObject fields(metadata, where + ": header: __metadata__");
  for (const auto& [name, value] : metadata.items()) out.emplace(name, fields.string(name.c_str()));
  return out;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path), tensors_(parse_safetensors(file_.bytes(), path.string())) {}

SafetensorsFolder::SafetensorsFolder(const std::filesystem::path& folder) {
  for (const std::filesystem::path& path : weight_files(folder)) add(path);
}

// Shards may repeat a tensor, such as a tied one.
void SafetensorsFolder::add(const std::filesystem::path& path) {
  files_.push_back(std::make_unique<SafetensorsFile>(path));
  for (const auto& [name, view] : files_.back()->tensors()) {
    const auto [place, added] = tensors_.emplace(name, view);
    const DenseView& known = place->second;
    const bool same = known.dtype == view.dtype && known.shape == view.shape &&
                      std::equal(known.bytes.begin(), known.bytes.end(), view.bytes.begin(), view.bytes.end());
    if (!added && !same)
      corrupt(path.string(), fmt::format("tensor {} is another one in {}", name, owners_[name]->path().string()));
    if (added) owners_[name] = files_.back().get();
  }
}

const DenseView* SafetensorsFolder::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void SafetensorsFolder::release() const {
  for (const auto& file : files_) file->release();
}

std::string SafetensorsFolder::where(const std::string& name) const {
  const auto found = owners_.find(name);
  return found == owners_.end() ? files_.front()->path().parent_path().string() : found->second->path().string();
}

std::size_t TensorPlan::bytes() const {
  return stored_bytes(dtype, element_count(shape).value_or(0)).value_or(0);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorPlan>& plan,
                                     const SafetensorsOptions& options)
    : path_(path) {
  OrderedJson header;
  header["__metadata__"] = options.metadata;
  for (const TensorPlan& tensor : plan) {
    const std::size_t size = tensor.bytes();
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {remaining_, remaining_ + size}}};
    offsets_[tensor.name] = remaining_;
    remaining_ += size;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // data starts on 8 bytes
  const std::uint64_t size = text.size();
  text.insert(0, reinterpret_cast<const char*>(&size), sizeof(size));
  for (auto& [name, offset] : offsets_) offset += text.size();
  if (options.resume) {
    const MappedFile before(path);
    const std::string_view found(reinterpret_cast<const char*>(before.bytes().data()), before.bytes().size());
    if (!found.starts_with(text) || found.size() != text.size() + remaining_)
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: not a file of the tensors that were planned", path.string()));
  }
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | (options.resume ? 0 : O_TRUNC) | O_CLOEXEC, options.mode);
  if (descriptor_ < 0) {
    fail_file(path, "create");
  }
  if (options.resume) {
    at_ = text.size();
    return;
  }
  write_all(std::as_bytes(std::span(text)));
  if (ftruncate(descriptor_, static_cast<off_t>(text.size() + remaining_)) != 0) fail_file(path, "extend");
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void SafetensorsWriter::write_all(std::span<const std::byte> bytes) {
  write_fully(descriptor_, bytes, static_cast<std::int64_t>(at_), path_);
  at_ += bytes.size();
}

void SafetensorsWriter::seek(const std::string& tensor) {
  at_ = offsets_.at(tensor);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  skip(bytes.size());
  write_all(bytes);
}

void SafetensorsWriter::skip(std::size_t bytes) {
  if (bytes > remaining_) throw Error(ErrorCode::kInternal, path_.string() + ": more data than planned");
  remaining_ -= bytes;
}

void SafetensorsWriter::sync() {
  if (fdatasync(descriptor_) != 0) fail_file(path_, "flush");
}

void SafetensorsWriter::finish() {
  if (remaining_ != 0) {
    throw Error(ErrorCode::kInternal, fmt::format("{}: {} planned bytes were not written", path_.string(), remaining_));
  }
  if (fsync(descriptor_) != 0 || close(std::exchange(descriptor_, -1)) != 0) {
    fail_file(path_, "flush");
  }
}

}  // namespace metal_marlin

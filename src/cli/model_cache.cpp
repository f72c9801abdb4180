#include "cli/model_cache.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/paths.h"
#include "io/file_write.h"
#include "io/json.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMarker = ".complete.json";
constexpr std::string_view kPartial = ".partial-";  // of a run of quantize that was cut off

bool is_folder_name(std::string_view text, std::string_view more) {
  const auto is_letter = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  };
  return !text.empty() && (is_letter(text.front()) || text.front() == '_') &&
         std::all_of(text.begin(), text.end(), [&](char c) { return is_letter(c) || more.find(c) != more.npos; });
}

// "ORG/NAME" or "ORG/NAME@FORMAT"
bool is_model_name(std::string_view name) {
  const std::size_t at = name.find('@');
  return is_repository(name.substr(0, at)) && (at == name.npos || is_folder_name(name.substr(at + 1), "_.-"));
}

// Not where a link leads.
bool is_real_folder(const fs::path& path) {
  std::error_code none;
  return fs::symlink_status(path, none).type() == fs::file_type::directory;
}

// The folders in a folder, without links; none where it cannot be read.
std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    if (is_real_folder(it->path())) out.push_back(it->path());
  }
  return out;
}

// The model's name that a folder belongs to.
std::string model_of(const fs::path& folder) {
  std::string name = folder.filename().string();
  const std::size_t at = name.find('@');
  if (at != name.npos) name.erase(std::min(name.find(kPartial, at), name.size()));
  return folder.parent_path().filename().string() + "/" + name;
}

std::uintmax_t bytes_in(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    std::error_code gone;
    if (it->is_symlink(gone) || !it->is_regular_file(gone)) continue;
    const std::uintmax_t size = it->file_size(gone);
    if (!gone) bytes += size;
  }
  return bytes;
}

std::optional<std::chrono::system_clock::time_point> time_of(const fs::path& file) {
  struct stat status {};
  if (stat(file.c_str(), &status) != 0) return std::nullopt;
  return std::chrono::system_clock::from_time_t(status.st_mtime);
}

bool has_all_files(const fs::path& folder) {
  const Json json = read_json_file(folder / kMarker);
  const JsonObject marker(json, (folder / kMarker).string());
  const Json& files = marker.at("files");
  if (!files.is_object()) marker.wrong("files", "sizes of files");
  for (const auto& [name, bytes] : files.items()) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(folder / name, error);
    if (error || bytes != size) return false;
  }
  return true;
}

}  // namespace

bool is_repository(std::string_view text) {
  const std::size_t slash = text.find('/');
  return slash != text.npos && is_folder_name(text.substr(0, slash), "_.-") &&
         is_folder_name(text.substr(slash + 1), "_.-");
}

ModelCache::ModelCache() : root_(cache_folder()) {
  if (root_.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "no folder for models: METAL_MARLIN_CACHE, XDG_CACHE_HOME or HOME must name one");
  }
  root_ /= "models";
}

fs::path ModelCache::lock_file(const std::string& name) const {
  const fs::path path = folder(name);
  return path.parent_path() / fmt::format(".{}.lock", path.filename().string());
}

std::vector<CachedModel> ModelCache::models() const {
  std::map<std::string, CachedModel> found;
  for (const fs::path& organization : folders_in(root_)) {
    for (const fs::path& path : folders_in(organization)) {
      const std::string name = model_of(path);
      if (!is_model_name(name)) continue;
      CachedModel& model = found[name];
      model.bytes += bytes_in(path);
    }
  }
  std::vector<CachedModel> out;
  for (auto& [name, model] : found) {
    model.name = name;
    if (const std::size_t at = name.find('@'); at != name.npos) model.format = name.substr(at + 1);
    model.folder = folder(name);
    model.last_used = time_of(lock_file(name));
    model.complete = is_complete(name);
    model.in_use = model.last_used && !FileLock::try_take(lock_file(name), FileLock::Kind::kExclusive);
    out.push_back(std::move(model));
  }
  return out;
}

bool ModelCache::is_complete(const std::string& name) const {
  try {
    return has_all_files(folder(name));
  } catch (const Error& error) {
    // A marker that is damaged is made again.
    if (error.code() == ErrorCode::kNotFound || error.code() == ErrorCode::kCorruptFile) return false;
    throw;
  }
}

void ModelCache::mark_complete(const std::string& name) const {
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  for (const auto& entry : fs::directory_iterator(folder(name))) {
    const std::string file = entry.path().filename().string();
    if (entry.is_regular_file() && !file.starts_with('.') && !file.ends_with(".partial"))
      files[file] = entry.file_size();
  }
  const nlohmann::ordered_json marker = {{"model", name}, {"files", files}};
  write_file_atomically(folder(name) / kMarker, marker.dump(2) + "\n");
}

std::vector<fs::path> ModelCache::folders(const std::string& name) const {
  std::vector<fs::path> out;
  for (const fs::path& path : folders_in(folder(name).parent_path())) {
    if (model_of(path) == name) out.push_back(path);
  }
  return out;
}

void ModelCache::check_removable(const std::string& name) const {
  if (!is_model_name(name)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: expected ORG/NAME or ORG/NAME@FORMAT, as `metal-marlin models` lists them", name));
  }
  for (const fs::path& path : {folder(name).parent_path(), folder(name)}) {
    if (fs::is_symlink(fs::symlink_status(path)))
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: is a link, which is not followed", path.string()));
  }
  if (folders(name).empty())
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no such model in {}", name, root_.string()));
  if (!FileLock::try_take(lock_file(name), FileLock::Kind::kExclusive))
    throw Error(ErrorCode::kIo, fmt::format("{}: is in use by another process", name));
}

void ModelCache::remove(const std::string& name) const {
  check_removable(name);
  const auto lock = FileLock::try_take(lock_file(name), FileLock::Kind::kExclusive);
  if (!lock) throw Error(ErrorCode::kIo, fmt::format("{}: is in use by another process", name));
  fs::remove(folder(name) / kMarker);  // first: half of a model is no model
  for (const fs::path& path : folders(name)) fs::remove_all(path);
  fs::remove(lock_file(name));
  std::error_code not_empty;
  fs::remove(folder(name).parent_path(), not_empty);
}

}  // namespace metal_marlin::cli

#include "io/sources.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <system_error>

#include "base/paths.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMostLinks = 40;

// Where a name leads, be it there or not; a link to what is not there yet leads there too.
std::filesystem::path resolve(const std::filesystem::path& name) {
  std::error_code none;
  std::filesystem::path path = std::filesystem::absolute(name, none);
  if (path.filename().empty()) path = path.parent_path();  // a slash at the end
  for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(path, none); ++i) {
    const std::filesystem::path target = std::filesystem::read_symlink(path, none);
    path = target.is_absolute() ? target : path.parent_path() / target;
    if (path.filename().empty()) path = path.parent_path();
  }
  const std::filesystem::path real = std::filesystem::weakly_canonical(path, none);
  return none ? path.lexically_normal() : real;
}

// Whether a source lies in a folder that the making of `output` moves away or removes: an older output, or what a
// run that was cut off left (OutputFolder).
bool lies_in_remains(std::filesystem::path path, const std::filesystem::path& output) {
  const std::string name = output.filename().string();
  for (; path != path.parent_path(); path = path.parent_path()) {
    const std::string other = path.filename().string();
    if ((other == name + ".replaced" || other.starts_with(name + ".partial")) &&
        is_same_file(path.parent_path(), output.parent_path())) {
      return true;
    }
  }
  return false;
}

}  // namespace

void Sources::add(const std::filesystem::path& path) {
  if (path.empty() || path == "-") return;
  sources_.push_back(resolve(path));
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(path, none)) {
    if (entry.is_symlink(none) && entry.is_regular_file(none)) sources_.push_back(resolve(entry.path()));
  }
}

void Sources::add_weights(const Checkpoint& checkpoint) {
  std::vector<std::string> files;
  for (const WeightInfo& info : checkpoint.weights()) files.push_back(checkpoint.where(info.name));
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  for (const std::string& file : files) add(file);
}

void Sources::add_model(const std::filesystem::path& path) {
  add(path);
  add_weights(*open_checkpoint(path));
}

void Sources::refuse(const std::filesystem::path& output) const {
  const std::filesystem::path path = resolve(output);
  const auto fail = [&](const char* what, const std::filesystem::path& source) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {} the source {}, which would not stay as it is",
                                                         output.string(), what, source.string()));
  };
  for (const std::filesystem::path& source : sources_) {
    if (is_same_file(path, source)) fail("is", source);
    if (lies_in(path, source)) fail("lies in", source);
    if (lies_in(source, path)) fail("holds", source);
    if (lies_in_remains(source, path)) fail("stands in the way of", source);
  }
}

}  // namespace metal_marlin

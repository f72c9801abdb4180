#include "io/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>

#include "io/file_write.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

void check_free(const std::filesystem::path& destination, bool overwrite) {
  std::error_code none;
  const auto there = std::filesystem::status(destination, none).type();
  if (there == std::filesystem::file_type::not_found) return;
  if (!overwrite) throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: exists already", destination.string()));
  if (there != std::filesystem::file_type::directory)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: not a folder, cannot be replaced", destination.string()));
}

// Without a slash at its end, and with a last part that is a name: "." and ".." cannot be renamed.
std::filesystem::path with_name(std::filesystem::path path) {
  if (path.filename().empty()) path = path.parent_path();
  if (path.filename() != "." && path.filename() != "..") return path;
  std::error_code none;
  std::filesystem::path real = std::filesystem::weakly_canonical(path, none);
  if (real.filename().empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: no folder that can be written", path.string()));
  return real;
}

// Removes partial folders of this destination whose owner is gone, but for the first that is wanted:
// its path, and the lock on it.
std::pair<std::filesystem::path, int> remove_abandoned(
    const std::filesystem::path& destination, const std::function<bool(const std::filesystem::path&)>& wanted) {
  const std::string prefix = destination.filename().string() + ".partial-";
  std::error_code ignored;
  std::pair<std::filesystem::path, int> out{{}, -1};
  for (const auto& entry : std::filesystem::directory_iterator(parent_of(destination), ignored)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const int descriptor = open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
      if (out.second < 0 && wanted && wanted(entry.path())) {
        out = {entry.path(), descriptor};
        continue;
      }
      std::filesystem::remove_all(entry.path(), ignored);
    }
    close(descriptor);
  }
  return out;
}

}  // namespace

OutputFolder::OutputFolder(const std::filesystem::path& destination, bool overwrite,
                           const std::function<bool(const std::filesystem::path& abandoned)>& adopt)
    : destination_(with_name(destination)), overwrite_(overwrite) {
  if (destination_.empty()) throw Error(ErrorCode::kInvalidArgument, "the output folder has no name");
  check_free(destination_, overwrite_);
  std::error_code error;
  std::filesystem::create_directories(parent_of(destination_), error);
  if (error)
    throw Error(ErrorCode::kIo,
                fmt::format("{}: cannot create: {}", parent_of(destination_).string(), error.message()));
  std::tie(partial_, lock_) = remove_abandoned(destination_, adopt);
  adopted_ = lock_ >= 0;
  if (adopted_) return;
  std::string pattern = destination_.string() + ".partial-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) fail_file(pattern, "create");
  partial_ = pattern;
  std::filesystem::permissions(partial_, std::filesystem::perms(0755));
  lock_ = open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0 || flock(lock_, LOCK_EX) != 0) fail_file(partial_, "lock");
}

OutputFolder::~OutputFolder() {
  if (lock_ >= 0) close(lock_);
  if (committed_ || kept_) return;
  std::error_code ignored;
  std::filesystem::remove_all(partial_, ignored);
}

void OutputFolder::write_file(const std::string& name, const std::string& text) {
  const std::filesystem::path path = partial_ / name;
  std::filesystem::create_directories(path.parent_path());
  write_and_sync(path, std::as_bytes(std::span(text)));
  if (path.parent_path() != partial_) sync_folder(path.parent_path());
}

void OutputFolder::commit() {
  check_free(destination_, overwrite_);
  sync_folder(partial_);
  std::filesystem::path replaced = destination_;
  replaced += ".replaced";
  std::error_code error;
  if (std::filesystem::exists(destination_)) {
    std::filesystem::remove_all(replaced, error);
    std::filesystem::rename(destination_, replaced, error);
    if (error)
      throw Error(ErrorCode::kIo, fmt::format("{}: cannot move away: {}", destination_.string(), error.message()));
  }
  std::filesystem::rename(partial_, destination_, error);
  if (error) {
    std::error_code ignored;
    std::filesystem::rename(replaced, destination_, ignored);
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot rename: {}", partial_.string(), error.message()));
  }
  committed_ = true;
  sync_folder(parent_of(destination_));
  std::filesystem::remove_all(replaced, error);
}

}  // namespace metal_marlin

#include "io/model_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/paths.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSingle = "model.safetensors";

// A hub's cache has snapshots/REVISION/FILE, links to blobs/HASH beside snapshots.
std::optional<fs::path> hub_blobs(const fs::path& folder) {
  for (fs::path at = folder; at.has_relative_path(); at = at.parent_path()) {
    if (at.filename() == "snapshots") return at.parent_path() / "blobs";
  }
  return std::nullopt;
}

struct NumberedName {
  std::string begin;  // "model-"
  std::string number;
  std::string count;
  std::string end;  // ".safetensors"
};

std::optional<NumberedName> parse_numbered(const std::string& name) {
  const std::size_t of = name.rfind("-of-");
  if (of == std::string::npos) return std::nullopt;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  std::size_t begin = of;
  while (begin > 0 && digit(name[begin - 1])) --begin;
  std::size_t end = of + 4;
  while (end < name.size() && digit(name[end])) ++end;
  if (begin == of || end == of + 4 || of - begin > 6 || end - of - 4 > 6) return std::nullopt;
  return NumberedName{name.substr(0, begin), name.substr(begin, of - begin), name.substr(of + 4, end - of - 4),
                      name.substr(end)};
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

[[noreturn]] void missing(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kNotFound, fmt::format("{}: {}", where, what));
}

// Why a folder without safetensors files has no weights that we read.
[[noreturn]] void explain_no_weights(const fs::path& folder, const std::vector<std::string>& names) {
  const auto ending = [&](std::string_view end) {
    return std::find_if(names.begin(), names.end(), [&](const std::string& name) { return name.ends_with(end); });
  };
  if (const auto found = ending(".gguf"); found != names.end())
    missing(folder.string(), fmt::format("holds GGUF files: name one of them, such as {}", *found));
  for (const char* const end : {".bin", ".pt", ".pth", ".bin.index.json"}) {
    const auto found = ending(end);
    if (found == names.end()) continue;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: holds {}, PyTorch's pickled weights, which are programs and are not read; expected "
                            "safetensors (load it with transformers and save_pretrained)",
                            folder.string(), *found));
  }
  if (const auto found = ending(".npz"); found != names.end())
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: holds {}, MLX's form from before safetensors; convert the model anew", folder.string(),
                            *found));
  missing(folder.string(), fmt::format("no {} and no shards of it", kSingle));
}

bool has_adapter(const std::vector<std::string>& names) {
  return std::find(names.begin(), names.end(), "adapter_config.json") != names.end();
}

[[noreturn]] void refuse_adapter(const fs::path& folder) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: holds an adapter (adapter_config.json), which is not applied; merge it into its model "
                          "first",
                          folder.string()));
}

// The first whole set of numbered parts, or nothing; which part a set lacks.
std::vector<std::string> whole_set(const std::vector<std::string>& names, std::string& lacks) {
  const std::set<std::string> there(names.begin(), names.end());
  for (const std::string& name : names) {
    if (!name.ends_with(".safetensors")) continue;
    std::vector<std::string> parts = numbered_parts(name);
    const auto gap = std::find_if(parts.begin(), parts.end(), [&](const std::string& p) { return !there.contains(p); });
    if (!parts.empty() && gap == parts.end()) return parts;
    if (!parts.empty() && lacks.empty())
      lacks = fmt::format("{} (part {} of {}) is missing", *gap, gap - parts.begin() + 1, parts.size());
  }
  return {};
}

// The files that an index names, in order. \throws Error when one leaves the folder.
std::vector<std::string> indexed_files(const fs::path& folder) {
  const fs::path path = file_in(folder, kIndex);
  const Json json = read_json_file(path);
  const JsonObject map = JsonObject(json, path.string()).object("weight_map");
  std::set<std::string> files;
  for (const auto& [name, file] : map.json().items()) {
    if (!file.is_string()) map.wrong(name.c_str(), "a file name");
    files.insert(file.get<std::string>());
  }
  return {files.begin(), files.end()};
}

}  // namespace

void check_lies_in(const fs::path& folder, const fs::path& path) {
  std::error_code failed;
  const fs::path target = fs::weakly_canonical(path, failed);
  const fs::path home = fs::weakly_canonical(folder.empty() ? "." : folder, failed);
  if (lies_in(target, home)) return;
  const auto blobs = hub_blobs(home);
  if (blobs && lies_in(target, *blobs)) return;
  throw Error(ErrorCode::kCorruptFile,
              fmt::format("{}: leaves the folder: links out of it, to {}; copy the file into the folder, or name the "
                          "folder that it lies in",
                          path.string(), target.string()));
}

fs::path file_in(const fs::path& folder, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('\0') != std::string::npos ||
      fs::path(name).filename() != name)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: file name {} leaves the folder", folder.string(), name));
  check_lies_in(folder, folder / name);
  return folder / name;
}

fs::path config_file(const fs::path& folder) {
  if (has_file(folder, "config.json")) return file_in(folder, "config.json");
  const std::vector<std::string> names = names_in(folder);
  if (has_adapter(names)) refuse_adapter(folder);
  const auto gguf = std::find_if(names.begin(), names.end(), [](const auto& name) { return name.ends_with(".gguf"); });
  if (gguf != names.end())
    missing(folder.string(), fmt::format("holds GGUF files: name one of them, such as {}", *gguf));
  if (std::find(names.begin(), names.end(), "params.json") != names.end())
    missing(folder.string(), "holds params.json, another form of models; expected config.json as transformers has it");
  missing(folder.string(), "no config.json: not a model's folder");
}

fs::path first_part(const fs::path& path) {
  const std::vector<std::string> parts = numbered_parts(path.filename().string());
  if (parts.empty() || !has_file(path.parent_path(), parts[0])) return path;
  return path.parent_path() / parts[0];
}

bool has_file(const fs::path& folder, const std::string& name) {
  return fs::exists(folder / name);
}

std::string text_in(const std::filesystem::path& folder, const std::string& name) {
  const MappedFile file(file_in(folder, name));
  if (file.bytes().empty() && name.ends_with(".json"))
    throw Error(ErrorCode::kCorruptFile, (folder / name).string() + ": is empty");
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

std::vector<std::string> numbered_parts(const std::string& name) {
  const auto parsed = parse_numbered(name);
  if (!parsed) return {};
  const long number = std::strtol(parsed->number.c_str(), nullptr, 10);
  const long count = std::strtol(parsed->count.c_str(), nullptr, 10);
  // Some count their parts from 0.
  if (count < 1 || number > count) return {};
  std::vector<std::string> out;
  for (long i = 1; i <= count; ++i)
    out.push_back(fmt::format("{}{:0{}}-of-{}{}", parsed->begin, i, parsed->number.size(), parsed->count, parsed->end));
  return out;
}

std::vector<fs::path> weight_files(const fs::path& folder) {
  const std::vector<std::string> names = names_in(folder);
  std::vector<std::string> files;
  std::string lacks;
  if (has_file(folder, kSingle)) {
    files = {kSingle};
  } else if (has_file(folder, kIndex)) {
    files = indexed_files(folder);
    for (const std::string& name : files) static_cast<void>(file_in(folder, name));
    const auto gap =
        std::find_if(files.begin(), files.end(), [&](const std::string& f) { return !has_file(folder, f); });
    if (gap != files.end()) {  // the index may be of another set of shards
      const std::vector<std::string> parts = numbered_parts(*gap);
      const auto place = std::find(parts.begin(), parts.end(), *gap);
      const std::string which =
          place == parts.end() ? "" : fmt::format(" (part {} of {})", place - parts.begin() + 1, parts.size());
      lacks = fmt::format("shard {}{}, which {} names, is missing", *gap, which, kIndex);
      std::string other;
      files = whole_set(names, other);
    }
  } else {
    files = whole_set(names, lacks);
    if (files.empty() && lacks.empty()) {
      std::copy_if(names.begin(), names.end(), std::back_inserter(files),
                   [](const std::string& name) { return name.ends_with(".safetensors"); });
      if (files.size() == 1 && files[0].starts_with("adapter_model")) refuse_adapter(folder);
      if (files.size() > 1)
        missing(folder.string(),
                fmt::format("holds {} safetensors files that are no parts of one model, such as {} and "
                            "{}; expected {} or shards",
                            files.size(), files[0], files[1], kSingle));
    }
  }
  if (files.empty() && !lacks.empty()) missing(folder.string(), lacks);
  if (files.empty()) explain_no_weights(folder, names);
  std::vector<fs::path> out;
  for (const std::string& name : files) out.push_back(file_in(folder, name));
  return out;
}

}  // namespace metal_marlin

#include "cli/pull.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/memory.h"
#include "base/regex.h"
#include "cli/commands.h"
#include "cli/hub.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

std::string environment(const char* name, const char* fallback) {
  const char* const value = std::getenv(name);
  return value == nullptr || *value == '\0' ? fallback : value;
}

// "1_Pooling/config.json": how sentence-transformers makes vectors.
bool is_module_config(const std::string& name) {
  static const Regex pattern("^[0-9]+_[A-Za-z0-9_]+/config\\.json$", "module");
  return pattern.search(name);
}

// What a model needs: its safetensors, or its one GGUF file, and the texts beside them.
std::vector<HubFile> files_of_model(const PullRequest& request, const std::vector<HubFile>& all) {
  const auto ends = [](const HubFile& file, std::initializer_list<std::string_view> suffixes) {
    return std::any_of(suffixes.begin(), suffixes.end(),
                       [&](std::string_view suffix) { return file.name.ends_with(suffix); });
  };
  std::vector<HubFile> texts;
  std::vector<HubFile> tensors;
  std::vector<HubFile> ggufs;
  for (const HubFile& file : all) {
    if (file.name.find('/') != std::string::npos) {
      if (is_module_config(file.name)) texts.push_back(file);
      continue;
    }
    if (ends(file, {".json", ".jinja", ".txt", "tokenizer.model"})) texts.push_back(file);
    // Mistral's second copy of the weights.
    if (ends(file, {".safetensors"}) && !file.name.starts_with("consolidated")) tensors.push_back(file);
    if (ends(file, {".gguf"})) ggufs.push_back(file);
  }
  if (tensors.empty() && ggufs.size() == 1) return ggufs;
  if (tensors.empty()) {
    std::string names;
    for (const HubFile& file : ggufs.empty() ? all : ggufs)
      names += fmt::format("\n  {} ({})", file.name, byte_text(static_cast<std::size_t>(file.size)));
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} has no safetensors files; choose files by `metal-marlin pull {} --include`:{}",
                            request.repository, request.repository, names));
  }
  texts.insert(texts.end(), tensors.begin(), tensors.end());
  return texts;
}

std::vector<HubFile> wanted_files(const PullRequest& request, const std::vector<HubFile>& all) {
  std::vector<HubFile> files;
  const std::vector<Regex> include = compile_patterns(request.include, "include");
  const std::vector<Regex> exclude = compile_patterns(request.exclude, "exclude");
  if (include.empty()) {
    files = files_of_model(request, all);
  } else {
    std::copy_if(all.begin(), all.end(), std::back_inserter(files),
                 [&](const HubFile& file) { return any_match(include, file.name); });
  }
  std::erase_if(files, [&](const HubFile& file) { return any_match(exclude, file.name); });
  if (files.empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: no file is left to fetch", request.repository));
  // Last: without it nobody takes the folder for a model.
  std::stable_partition(files.begin(), files.end(), [](const HubFile& file) { return file.name != "config.json"; });
  return files;
}

}  // namespace

PullReport pull(const PullRequest& request) {
  const Hub hub(environment("HF_ENDPOINT", "https://huggingface.co"), environment("HF_TOKEN", ""));
  const HubRevision revision = hub.revision(request.repository, request.revision);
  const std::vector<HubFile> files = wanted_files(request, revision.files);
  PullReport report{revision.commit, {}, 0};
  for (const HubFile& file : files) report.bytes += file.size;
  const auto total = static_cast<double>(report.bytes);
  ProgressBar bar("pull", "B");
  std::int64_t before = 0;
  for (const HubFile& file : files) {
    const std::filesystem::path path = request.destination / file.name;
    const bool there = Hub::is_complete(file, path);
    if (!there) {
      if (file.checksum().empty()) print_notice(fmt::format("{}: the hub tells no checksum of it", file.name));
      hub.fetch(request.repository, revision.commit, file, path, [&](std::int64_t bytes) {
        bar.update(static_cast<double>(before + bytes), total, file.name);
        return !interrupted();
      });
    }
    before += file.size;
    bar.update(static_cast<double>(before), total, file.name);
    report.files.push_back({file.name, file.size, !there});
  }
  return report;
}

}  // namespace metal_marlin::cli

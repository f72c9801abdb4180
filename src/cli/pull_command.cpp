#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "base/regex.h"
#include "base/seconds_since.h"
#include "cli/commands.h"
#include "cli/hub.h"
#include "cli/progress_bar.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct PullFlags {
  std::string repository;
  std::string destination;
  std::string revision = "main";
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  bool json = false;
};

std::string environment(const char* name, const char* fallback) {
  const char* const value = std::getenv(name);
  return value == nullptr || *value == '\0' ? fallback : value;
}

// What a model needs: its safetensors, or its one GGUF file, and the texts beside them.
std::vector<HubFile> files_of_model(const PullFlags& flags, const std::vector<HubFile>& all) {
  const auto ends = [](const HubFile& file, std::initializer_list<std::string_view> suffixes) {
    return std::any_of(suffixes.begin(), suffixes.end(),
                       [&](std::string_view suffix) { return file.name.ends_with(suffix); });
  };
  std::vector<HubFile> texts;
  std::vector<HubFile> tensors;
  std::vector<HubFile> ggufs;
  for (const HubFile& file : all) {
    if (file.name.find('/') != std::string::npos) continue;
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
                fmt::format("{} has no safetensors files; choose files by --include:{}", flags.repository, names));
  }
  texts.insert(texts.end(), tensors.begin(), tensors.end());
  return texts;
}

std::vector<HubFile> wanted_files(const PullFlags& flags, const std::vector<HubFile>& all) {
  std::vector<HubFile> files;
  const std::vector<Regex> include = compile_patterns(flags.include, "include");
  const std::vector<Regex> exclude = compile_patterns(flags.exclude, "exclude");
  if (include.empty()) {
    files = files_of_model(flags, all);
  } else {
    std::copy_if(all.begin(), all.end(), std::back_inserter(files),
                 [&](const HubFile& file) { return any_match(include, file.name); });
  }
  std::erase_if(files, [&](const HubFile& file) { return any_match(exclude, file.name); });
  if (files.empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: no file is left to fetch", flags.repository));
  // Last: without it nobody takes the folder for a model.
  std::stable_partition(files.begin(), files.end(), [](const HubFile& file) { return file.name != "config.json"; });
  return files;
}

void run_pull(PullFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  if (flags.destination.empty()) flags.destination = flags.repository.substr(flags.repository.rfind('/') + 1);
  const Hub hub(environment("HF_ENDPOINT", "https://huggingface.co"), environment("HF_TOKEN", ""));
  const HubRevision revision = hub.revision(flags.repository, flags.revision);
  const std::vector<HubFile> files = wanted_files(flags, revision.files);
  std::int64_t total = 0;
  for (const HubFile& file : files) total += file.size;
  nlohmann::ordered_json listed = nlohmann::ordered_json::array();
  {
    ProgressBar bar("pull", "B");
    std::int64_t before = 0;
    for (const HubFile& file : files) {
      const std::filesystem::path path = std::filesystem::path(flags.destination) / file.name;
      const bool there = Hub::is_complete(file, path);
      if (!there) {
        if (file.checksum().empty()) print_notice(fmt::format("{}: the hub tells no checksum of it", file.name));
        hub.fetch(flags.repository, revision.commit, file, path, [&](std::int64_t bytes) {
          bar.update(static_cast<double>(before + bytes), static_cast<double>(total), file.name);
          return !interrupted();
        });
      }
      before += file.size;
      bar.update(static_cast<double>(before), static_cast<double>(total), file.name);
      listed.push_back({{"name", file.name}, {"bytes", file.size}, {"fetched", !there}});
    }
  }
  const double seconds = seconds_since(start);
  if (flags.json) {
    const nlohmann::ordered_json out = {{"repository", flags.repository},
                                        {"commit", revision.commit},
                                        {"destination", flags.destination},
                                        {"files", listed},
                                        {"bytes", total},
                                        {"seconds", seconds}};
    fmt::print("{}\n", out.dump(2));
    return;
  }
  const auto fetched = std::count_if(listed.begin(), listed.end(), [](const auto& file) { return file["fetched"]; });
  fmt::print("{}: {} files, {}, of commit {}; {} fetched in {:.1f} s\n", flags.destination, files.size(),
             byte_text(static_cast<std::size_t>(total)), revision.commit, fetched, seconds);
}

}  // namespace

void add_pull(CLI::App& app) {
  auto* const command = app.add_subcommand("pull", "Fetch a model from a hub");
  auto flags = std::make_shared<PullFlags>();
  command->add_option("repository", flags->repository, "ORG/NAME")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& name) {
            return Regex("^[\\w.-]+(/[\\w.-]+)?$", "repository").search(name) ? "" : "expected ORG/NAME";
          },
          "", "repository"));
  command->add_option("-o,--output", flags->destination, "folder to put it in; default: NAME");
  command->add_option("--revision", flags->revision, "branch, tag or commit")->capture_default_str();
  add_list(*command, "--include", flags->include,
           "fetch files whose name matches, and no others; repeatable. Default: safetensors, or the one "
           "GGUF file, and the texts beside them");
  add_list(*command, "--exclude", flags->exclude, "leave out files whose name matches; repeatable");
  command->add_flag("--json", flags->json, "print what was fetched as JSON");
  command->footer(
      "HF_ENDPOINT names the hub (https://huggingface.co), HF_TOKEN is sent to it for models that are not public.\n"
      "Checksums are compared with the hub's. A run that was cut off goes on where it stopped when it is started\n"
      "again; files that are there already are not fetched.\n"
      "Examples:\n"
      "  metal-marlin pull Qwen/Qwen3-4B\n"
      "  metal-marlin pull bartowski/Qwen_Qwen3-4B-GGUF -o . --include 'Q4_0\\.gguf$'");
  command->callback([flags] { run_pull(*flags); });
}

}  // namespace metal_marlin::cli

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "base/regex.h"
#include "base/seconds_since.h"
#include "cli/commands.h"
#include "cli/pull.h"

namespace metal_marlin::cli {
namespace {

struct PullFlags {
  PullRequest request;
  bool json = false;
};

void run_pull(PullFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  PullRequest& request = flags.request;
  if (request.destination.empty()) request.destination = request.repository.substr(request.repository.rfind('/') + 1);
  const PullReport report = pull(request);
  const double seconds = seconds_since(start);
  if (flags.json) {
    nlohmann::ordered_json files = nlohmann::ordered_json::array();
    for (const PulledFile& file : report.files)
      files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"fetched", file.fetched}});
    const nlohmann::ordered_json out = {{"repository", request.repository},
                                        {"commit", report.commit},
                                        {"destination", request.destination.string()},
                                        {"files", files},
                                        {"bytes", report.bytes},
                                        {"seconds", seconds}};
    fmt::print("{}\n", out.dump(2));
    return;
  }
  const auto fetched =
      std::count_if(report.files.begin(), report.files.end(), [](const PulledFile& file) { return file.fetched; });
  fmt::print("{}: {} files, {}, of commit {}; {} fetched in {:.1f} s\n", request.destination.string(),
             report.files.size(), byte_text(static_cast<std::size_t>(report.bytes)), report.commit, fetched, seconds);
}

}  // namespace

void add_pull(CLI::App& app) {
  auto* const command = app.add_subcommand("pull", "Fetch a model from a hub");
  auto flags = std::make_shared<PullFlags>();
  command->add_option("repository", flags->request.repository, "ORG/NAME")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& name) {
            return Regex("^[\\w.-]+(/[\\w.-]+)?$", "repository").search(name) ? "" : "expected ORG/NAME";
          },
          "", "repository"));
  command->add_option("-o,--output", flags->request.destination, "folder to put it in; default: NAME");
  command->add_option("--revision", flags->request.revision, "branch, tag or commit")->capture_default_str();
  add_list(*command, "--include", flags->request.include,
           "fetch files whose name matches, and no others; repeatable. Default: safetensors, or the one "
           "GGUF file, and the texts beside them");
  add_list(*command, "--exclude", flags->request.exclude, "leave out files whose name matches; repeatable");
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

// Fetching a model from a hub into a folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace metal_marlin::cli {

struct PullRequest {
  std::string repository;  // "ORG/NAME"
  std::filesystem::path destination;
  std::string revision = "main";
  std::vector<std::string> include;  // patterns; none: what a model needs
  std::vector<std::string> exclude;
};

struct PulledFile {
  std::string name;
  std::int64_t bytes = 0;
  bool fetched = false;  // false: it was there
};

struct PullReport {
  std::string commit;
  std::vector<PulledFile> files;
  std::int64_t bytes = 0;
};

// From the hub that HF_ENDPOINT names, with a progress bar. Files that are there are not fetched again, those of a run
// that was cut off are gone on with. \throws Error as Hub does; (kCancelled) after Ctrl-C.
PullReport pull(const PullRequest& request);

}  // namespace metal_marlin::cli

// The files that tell how a model's vectors are made.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace metal_marlin {

// Their names in a folder, "1_Pooling/config.json" among them, to be carried over where the folder is written anew.
std::vector<std::string> embedding_files(const std::filesystem::path& model);

}  // namespace metal_marlin

// The files of a model's folder. What is in them, and how they are called there, is not trusted.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace metal_marlin {

// The folder's config.json. \throws Error saying what the folder holds instead.
std::filesystem::path config_file(const std::filesystem::path& folder);
// \throws Error (kCorruptFile) when links lead a path out of a folder, other than to where a hub's cache keeps files.
void check_lies_in(const std::filesystem::path& folder, const std::filesystem::path& path);
// A file of a folder. Links may lead to other places in the folder, or where a hub's cache keeps its files.
// \throws Error (kCorruptFile) when the name, or what it links to, leaves it.
std::filesystem::path file_in(const std::filesystem::path& folder, const std::string& name);
bool has_file(const std::filesystem::path& folder, const std::string& name);
// What it holds. \throws Error (kCorruptFile) as well for JSON that is empty.
std::string text_in(const std::filesystem::path& folder, const std::string& name);

// The safetensors files that hold a folder's weights: model.safetensors, the shards that an index names, or, where
// the index is missing or stale, a whole set of numbered parts or the only file there is.
// \throws Error saying what the folder holds instead, or which part is missing.
std::vector<std::filesystem::path> weight_files(const std::filesystem::path& folder);

// Names of a set of files of which `name` is one: "model-00002-of-00003.gguf". Empty: it is no part.
std::vector<std::string> numbered_parts(const std::string& name);

// The first of a set of files of which `path` is one, if it is there; else the path itself.
std::filesystem::path first_part(const std::filesystem::path& path);

}  // namespace metal_marlin

// Keeps what a command writes off what it reads.
#pragma once

#include <filesystem>
#include <vector>

#include "io/checkpoint.h"

namespace metal_marlin {

class Sources {
 public:
  // A file or folder that is read, with what the links in the folder lead to; "-" and empty names are nothing.
  void add(const std::filesystem::path& path);
  // The files of a model's weights, wherever they lie.
  void add_weights(const Checkpoint& checkpoint);
  // add() of a model that is not open, and its weights.
  void add_model(const std::filesystem::path& path);
  // \throws Error (kInvalidArgument) when an output, a file or folder that is there or not, is a source, lies in
  // one or holds one: by any spelling, through links, or as another name of the same file.
  void refuse(const std::filesystem::path& output) const;

 private:
  std::vector<std::filesystem::path> sources_;
};

}  // namespace metal_marlin

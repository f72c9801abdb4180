// The flags that say what a text must look like.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "metal_marlin/grammar.h"

namespace metal_marlin::cli {

struct GrammarFlags {
  std::string gbnf_file;
  std::string regex;
  std::vector<std::string> choices;
  std::string schema_file;

  void add(CLI::App& command);
  // None where no flag was given. \throws Error (kInvalidArgument) where several kinds were, and as Grammar does.
  [[nodiscard]] std::shared_ptr<const Grammar> load() const;
};

}  // namespace metal_marlin::cli

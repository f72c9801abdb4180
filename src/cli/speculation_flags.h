// The flags of speculation.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "metal_marlin/speculation.h"

namespace metal_marlin::cli {

struct SpeculationFlags {
  std::string kind = "off";
  std::string draft;
  int tokens = SpeculationOptions{}.tokens;

  void add(CLI::App& command);
  // Whether models are to be loaded with their layers for the next tokens.
  [[nodiscard]] bool want_prediction() const { return kind == "mtp" || kind == "auto"; }
  // \param load loads the draft model. \throws Error (kInvalidArgument) where flags exclude each other, and as it does.
  [[nodiscard]] SpeculationOptions options(
      const std::function<std::shared_ptr<const Model>(const std::string& draft)>& load) const;
  // The same for this model, where they were to choose by it.
  [[nodiscard]] SpeculationOptions of_model(SpeculationOptions options, const Model& model) const;
};

// "guessed 120 tokens, 87 right (72.5%)"; empty where nothing was guessed.
std::string guesses_text(const SpeculationStats& stats);

}  // namespace metal_marlin::cli

#include "cli/speculation_flags.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin::cli {

void SpeculationFlags::add(CLI::App& command) {
  command
      .add_option(
          "--speculate", kind,
          "guess the tokens that follow, for one step to check several: ngram looks up what came after the last "
          "ones before, mtp asks the layers that the model has for it, auto is mtp where it has them and else ngram; "
          "answers stay the same")
      ->check(CLI::IsMember({"ngram", "mtp", "auto", "off"}))
      ->capture_default_str();
  command.add_option("--draft", draft, "a smaller model of the same vocabulary that guesses instead");
  command.add_option("--draft-tokens", tokens, "most tokens of a guess; how many pay is measured")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
}

SpeculationOptions SpeculationFlags::options(
    const std::function<std::shared_ptr<const Model>(const std::string& draft)>& load) const {
  SpeculationOptions out;
  out.ngram = kind == "ngram";
  out.mtp = kind == "mtp";
  out.tokens = tokens;
  if (draft.empty()) return out;
  if (kind != "off")
    throw Error(ErrorCode::kInvalidArgument, fmt::format("give --speculate {} or --draft, not both", kind));
  out.draft = load(draft);
  return out;
}

SpeculationOptions SpeculationFlags::of_model(SpeculationOptions options, const Model& model) const {
  if (kind != "auto") return options;
  options.mtp = model.info().prediction_layers > 0;
  options.ngram = !options.mtp;
  return options;
}

std::string guesses_text(const SpeculationStats& stats) {
  if (stats.draft_tokens == 0) return {};
  return fmt::format("guessed {} tokens, {} right ({:.1f}%)", stats.draft_tokens, stats.accepted_tokens,
                     100.0 * static_cast<double>(stats.accepted_tokens) / static_cast<double>(stats.draft_tokens));
}

}  // namespace metal_marlin::cli

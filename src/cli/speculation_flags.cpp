#include "cli/speculation_flags.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin::cli {

void SpeculationFlags::add(CLI::App& command) {
  command
      .add_option(
          "--speculate", kind,
          "guess the tokens that follow, for one step to check several: ngram looks up what came after the last "
          "ones before; answers stay the same")
      ->check(CLI::IsMember({"ngram", "off"}))
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
  out.tokens = tokens;
  if (draft.empty()) return out;
  if (out.ngram) throw Error(ErrorCode::kInvalidArgument, "give --speculate ngram or --draft, not both");
  out.draft = load(draft);
  return out;
}

std::string guesses_text(const SpeculationStats& stats) {
  if (stats.draft_tokens == 0) return {};
  return fmt::format("guessed {} tokens, {} right ({:.1f}%)", stats.draft_tokens, stats.accepted_tokens,
                     100.0 * static_cast<double>(stats.accepted_tokens) / static_cast<double>(stats.draft_tokens));
}

}  // namespace metal_marlin::cli

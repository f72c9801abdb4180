#include "cli/sampler_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <variant>

#include "base/parse_number.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct Setting {
  const char* name;
  std::variant<float SamplerOptions::*, int SamplerOptions::*, std::uint64_t SamplerOptions::*> member;
  const char* what;
};

constexpr std::array kSettings{
    Setting{"temperature", &SamplerOptions::temperature, "0: always the likeliest token"},
    Setting{"top_k", &SamplerOptions::top_k, "choose among the k likeliest; 0: all"},
    Setting{"typical_p", &SamplerOptions::typical_p,
            "choose among the tokens nearest to the mean surprise whose sum reaches p"},
    Setting{"top_p", &SamplerOptions::top_p, "choose among the likeliest whose sum reaches p"},
    Setting{"min_p", &SamplerOptions::min_p, "drop tokens less likely than p times the likeliest"},
    Setting{"repeat_penalty", &SamplerOptions::repeat_penalty, "above 1: tokens seen already become less likely"},
    Setting{"frequency_penalty", &SamplerOptions::frequency_penalty,
            "taken from logits of tokens seen already, for each time"},
    Setting{"presence_penalty", &SamplerOptions::presence_penalty, "taken from logits of tokens seen already"},
    Setting{"seed", &SamplerOptions::seed, "of the random numbers"},
};

}  // namespace

void add_sampler_flags(CLI::App& command, SamplerOptions& options) {
  for (const Setting& setting : kSettings) {
    std::string flag = std::string("--") + setting.name;
    std::replace(flag.begin(), flag.end(), '_', '-');
    std::visit([&](auto member) { command.add_option(flag, options.*member, setting.what)->capture_default_str(); },
               setting.member);
  }
}

bool set_sampler(SamplerOptions& options, const std::string& name, const std::string& value) {
  const auto* const setting =
      std::find_if(kSettings.begin(), kSettings.end(), [&](const Setting& s) { return name == s.name; });
  if (setting == kSettings.end()) return false;
  SamplerOptions changed = options;
  std::visit(
      [&](auto member) {
        const auto number = parse_number<std::decay_t<decltype(changed.*member)>>(value);
        if (!number)
          throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is '{}', expected a number", name, value));
        changed.*member = *number;
      },
      setting->member);
  validate(changed);
  options = changed;
  return true;
}

std::vector<std::pair<std::string, std::string>> sampler_settings(const SamplerOptions& options) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const Setting& setting : kSettings)
    std::visit([&](auto member) { out.emplace_back(setting.name, fmt::format("{}", options.*member)); },
               setting.member);
  return out;
}

}  // namespace metal_marlin::cli

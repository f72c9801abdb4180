#include "models/generation_config.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>

namespace metal_marlin {

SamplerOptions parse_generation_config(const Json& generation, const std::string& where) {
  SamplerOptions out;
  out.temperature = 1;
  if (generation.is_null()) return out;
  const JsonObject config(generation, where + " (generation)");
  const auto number = [&](const char* key, float fallback, double low, double high, const char* expected) {
    const double value = config.number_or(key, static_cast<double>(fallback));
    if (!(value >= low && value <= high)) config.wrong(key, expected);
    return static_cast<float>(value);
  };
  constexpr double least = 1e-6;  // which a float tells from 0
  out.temperature = number("temperature", out.temperature, 0, 100, "a number from 0 to 100");
  out.top_p = number("top_p", out.top_p, least, 1, "a number above 0, 1 at most");
  out.min_p = number("min_p", out.min_p, 0, 1, "a number from 0 to 1");
  out.repeat_penalty = number("repetition_penalty", out.repeat_penalty, 0.01, 100, "a number from 0.01 to 100");
  // -1 is vLLM's word for all.
  if (config.has("top_k")) {
    out.top_k = static_cast<int>(std::max<std::int64_t>(0, config.bounded("top_k", -1, INT32_MAX)));
  }
  return out;
}

}  // namespace metal_marlin

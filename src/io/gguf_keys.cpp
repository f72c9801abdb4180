#include "io/gguf_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "metal_marlin/error.h"

namespace metal_marlin {

std::string GgufKeys::name(std::string_view key) const {
  return fmt::format("{}.{}", architecture_, key);
}

std::int64_t GgufKeys::bounded(std::string_view key, Bounds bounds) const {
  const auto value = find(key);
  if (!value) throw Error(ErrorCode::kNotFound, fmt::format("{}: key {} is missing", gguf_.where, name(key)));
  if (*value < bounds.low || *value > bounds.high)
    wrong(key, fmt::format("an integer from {} to {}", bounds.low, bounds.high));
  return *value;
}

std::int64_t GgufKeys::bounded_or(std::string_view key, Bounds bounds, std::int64_t fallback) const {
  return has(key) ? bounded(key, bounds) : fallback;
}

std::vector<std::int64_t> GgufKeys::of_layers(std::string_view key, Bounds bounds, std::int64_t layers) const {
  const auto found = gguf_.values.find(name(key));
  if (found == gguf_.values.end() || !std::holds_alternative<GgufArray>(found->second))
    return std::vector<std::int64_t>(static_cast<std::size_t>(layers), bounded(key, bounds));
  std::vector<std::int64_t> values = gguf_.integers(name(key));
  const auto wanted = [&](std::int64_t value) { return value >= bounds.low && value <= bounds.high; };
  if (static_cast<std::int64_t>(values.size()) != layers || !std::all_of(values.begin(), values.end(), wanted))
    wrong(key, fmt::format("an integer from {} to {} for each of {} layers", bounds.low, bounds.high, layers));
  return values;
}

std::int64_t GgufKeys::of_all_layers(std::string_view key, Bounds bounds, std::int64_t layers) const {
  const std::vector<std::int64_t> values = of_layers(key, bounds, layers);
  const auto same = [&](std::int64_t value) { return value == values.front(); };
  if (!std::all_of(values.begin(), values.end(), same)) unsupported(key, "the same for all layers");
  return values.front();
}

std::optional<double> GgufKeys::number(std::string_view key) const {
  const auto value = gguf_.number(name(key));
  if (value && !std::isfinite(*value)) wrong(key, "a finite number");
  return value;
}

double GgufKeys::positive_or(std::string_view key, double fallback) const {
  const double value = number(key).value_or(fallback);
  if (!(value > 0)) wrong(key, "a number above 0");
  return value;
}

double GgufKeys::positive_unless_zero(std::string_view key, double fallback) const {
  return number(key).value_or(0) == 0 ? fallback : positive_or(key, fallback);
}

std::vector<bool> GgufKeys::windowed(std::int64_t layers, std::int64_t period) const {
  constexpr std::string_view kWindowPattern = "attention.sliding_window_pattern";
  const auto found = gguf_.values.find(name(kWindowPattern));
  std::vector<bool> out;
  if (found != gguf_.values.end() && std::holds_alternative<GgufArray>(found->second)) {
    const GgufArray& array = std::get<GgufArray>(found->second);
    if (static_cast<std::int64_t>(array.count) != layers)
      wrong(kWindowPattern, fmt::format("an entry for each of {} layers", layers));
    if (array.type == kGgufBool) {
      for (const std::byte flag : array.bytes) out.push_back(flag != std::byte{0});
    } else {
      for (const std::int64_t flag : gguf_.integers(name(kWindowPattern))) out.push_back(flag != 0);
    }
    return out;
  }
  period = bounded_or(kWindowPattern, {0, kLayerBounds.high}, period);
  for (std::int64_t i = 0; i < layers; ++i) out.push_back(period == 0 || (i + 1) % period != 0);
  return out;
}

void GgufKeys::wrong(std::string_view key, std::string_view expected) const {
  throw Error(ErrorCode::kCorruptFile,
              fmt::format("{}: key {} is {}, expected {}", gguf_.where, name(key), gguf_.text_of(name(key)), expected));
}

void GgufKeys::unsupported(std::string_view key, std::string_view expected) const {
  const std::string found = has(key) ? gguf_.text_of(name(key)) : "left out";
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: key {} is {}, expected {}", gguf_.where, name(key), found, expected));
}

}  // namespace metal_marlin

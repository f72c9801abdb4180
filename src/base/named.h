// Values by the names that flags and files have for them.
#pragma once

#include <fmt/format.h>

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "metal_marlin/error.h"

namespace metal_marlin {

template <typename T>
using NamedValue = std::pair<std::string_view, T>;

// \throws Error (kInvalidArgument) saying what the name is of, and the names there are.
template <typename T>
T value_of(std::span<const NamedValue<T>> table, std::string_view name, std::string_view what) {
  std::string known;
  for (const auto& [text, value] : table) {
    if (text == name) return value;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", text);
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{} {}: expected one of {}", what, name, known));
}

// Empty where the value has none.
template <typename T>
std::string_view name_of(std::span<const NamedValue<T>> table, T value) {
  for (const auto& [text, named] : table) {
    if (named == value) return text;
  }
  return "";
}

}  // namespace metal_marlin

// A whole text that is a number.
#pragma once

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>

namespace metal_marlin {

// None where anything but the number stands there, spaces too, or where T does not hold it.
template <typename T>
std::optional<T> parse_number(const std::string& text) {
  const char* const end = text.data() + text.size();
  if constexpr (std::is_floating_point_v<T>) {  // Apple's library has from_chars of integers alone
    if (text.empty() || static_cast<unsigned char>(text.front()) <= ' ') return std::nullopt;
    char* stop = nullptr;
    const double value = std::strtod(text.c_str(), &stop);
    return stop == end ? std::optional(static_cast<T>(value)) : std::nullopt;
  } else {
    T value{};
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end ? std::optional(value) : std::nullopt;
  }
}

}  // namespace metal_marlin

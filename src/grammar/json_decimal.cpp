#include "grammar/json_decimal.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

namespace metal_marlin {
namespace {

constexpr int kMostWholeDigits = 19;
constexpr int kMostPlaces = 18;

WideInteger power_of_ten(int exponent) {
  WideInteger out = 1;
  for (int i = 0; i < exponent; ++i) out *= 10;
  return out;
}

}  // namespace

std::optional<WideInteger> Decimal::exactly(int places) const {
  if (digits == 0) return 0;
  if (exponent + places < 0) return std::nullopt;
  return digits * power_of_ten(exponent + places);
}

WideInteger Decimal::rounded(int places, bool up) const {
  if (const auto exact = exactly(places)) return *exact;
  const WideInteger unit = power_of_ten(-(exponent + places));
  const WideInteger toward_zero = digits / unit;  // and something is left
  if (up) return digits > 0 ? toward_zero + 1 : toward_zero;
  return digits < 0 ? toward_zero - 1 : toward_zero;
}

int Decimal::whole_digits() const {
  int out = exponent;
  for (WideInteger left = digits; left != 0; left /= 10) ++out;
  return out > 0 ? out : 0;
}

std::optional<Decimal> decimal_of(const OrderedJson& number) {
  const std::string text = number.is_number_float()      ? fmt::format("{}", number.get<double>())
                           : number.is_number_unsigned() ? fmt::format("{}", number.get<std::uint64_t>())
                                                         : fmt::format("{}", number.get<std::int64_t>());
  Decimal out;
  const bool is_negative = text.starts_with('-');
  std::size_t at = is_negative ? 1 : 0;
  bool in_fraction = false;
  for (; at < text.size() && text[at] != 'e'; ++at) {
    if (text[at] == '.') {
      in_fraction = true;
      continue;
    }
    out.digits = out.digits * 10 + (text[at] - '0');
    if (in_fraction) --out.exponent;
  }
  if (at < text.size()) out.exponent += std::atoi(text.c_str() + at + 1);
  if (is_negative) out.digits = -out.digits;
  if (out.digits == 0) return Decimal{};
  for (; out.digits % 10 == 0; ++out.exponent) out.digits /= 10;
  if (out.whole_digits() > kMostWholeDigits || out.places() > kMostPlaces) return std::nullopt;
  return out;
}

}  // namespace metal_marlin

// The filters that give numbers.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/library.h"
#include "chat_template/operators.h"

namespace metal_marlin::jinja {
namespace {

// Digits with single _ between them, without these; nullopt: they are elsewhere.
std::optional<std::string> without_joints(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); };
    if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) return std::nullopt;
  }
  return out;
}

// What Python's int(text, base) gives; nullopt: a ValueError.
std::optional<std::int64_t> parse_integer(std::string_view text, std::int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  text = strip(text);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  static constexpr std::pair<char, int> kMarks[] = {{'x', 16}, {'o', 8}, {'b', 2}};
  bool marked = false;
  for (const auto& [mark, of] : kMarks) {
    if (text.size() < 2 || text[0] != '0' || (text[1] | 0x20) != mark || (base != 0 && base != of)) continue;
    text.remove_prefix(text.size() > 2 && text[2] == '_' ? 3 : 2);
    base = of;
    marked = true;
    break;
  }
  const std::optional<std::string> digits = without_joints(text);
  if (!digits || digits->empty()) return std::nullopt;
  if (base == 0) {
    const bool zeros = digits->find_first_not_of('0') == digits->npos;
    if (!marked && digits->front() == '0' && !zeros) return std::nullopt;
    base = 10;
  }
  std::int64_t value = 0;
  const std::string signed_digits = fmt::format("{}{}", negative ? "-" : "", *digits);
  const char* const end = signed_digits.data() + signed_digits.size();
  if (digits->front() == '-' || digits->front() == '+') return std::nullopt;
  const auto result = std::from_chars(signed_digits.data(), end, value, static_cast<int>(base));
  if (result.ptr != end) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) fail(FailureKind::kUnsupported, "an integer beyond 64 bits");
  return value;
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text);
  const std::optional<std::string> digits = without_joints(text);
  if (!digits || digits->empty()) return std::nullopt;
  const std::string small = lower(*digits);
  const std::string size = small.front() == '-' || small.front() == '+' ? small.substr(1) : small;
  const bool word = size == "inf" || size == "infinity" || size == "nan";
  if (!word && size.find_first_not_of("0123456789.e+-") != size.npos) return std::nullopt;
  if (!word && (size.empty() || (size.front() != '.' && (size.front() < '0' || size.front() > '9'))))
    return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(small.c_str(), &end);
  return end == small.c_str() + small.size() ? std::optional(value) : std::nullopt;
}

Value truncated(double value) {
  if (!(std::abs(value) < 9.2e18)) fail(FailureKind::kUnsupported, "an integer beyond 64 bits");
  return static_cast<std::int64_t>(value);
}

Value to_integer_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_int", "default base", 0, std::move(arguments));
  Value fallback = bound.has(0) ? bound[0] : Value(0);
  if (value.is_integer()) return value.integer();
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (value.is<double>()) {
    if (std::isinf(value.number())) python_error("cannot convert float infinity to integer");
    return std::isnan(value.number()) ? fallback : truncated(value.number());
  }
  if (!value.is_text()) return fallback;
  if (const auto integer = parse_integer(value.text(), bound.integer(1, 10))) return *integer;
  const auto real = parse_float(value.text());
  return real && std::isfinite(*real) ? truncated(*real) : fallback;
}

Value to_float_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_float", "default", 0, std::move(arguments));
  if (value.is_number()) return value.number();
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (value.is_text()) {
    if (const auto real = parse_float(value.text())) return *real;
  }
  return bound.has(0) ? bound[0] : Value(0.0);
}

Value absolute_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("abs", "", 0, std::move(arguments));
  if (value.is<double>()) return std::abs(value.number());
  if (value.is_integer()) return value.integer() < 0 ? negative(value) : positive(value);
  python_error("bad operand type for abs(): '{}'", type_name(value));
}

double rounded(double value, std::int64_t digits) {
  if (!std::isfinite(value) || digits > 330) return value;
  if (digits < -330) return std::copysign(0.0, value);
  char buffer[700];
  if (digits >= 0) {
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), value);
    return std::strtod(buffer, nullptr);
  }
  std::snprintf(buffer, sizeof buffer, "%.0e", value);
  const double unit = std::pow(10.0, static_cast<double>(-digits));
  const auto exponent = static_cast<std::int64_t>(value == 0 ? 0 : std::floor(std::log10(std::abs(value))));
  const std::int64_t kept = exponent + digits;  // digits after the first
  if (kept < 0) return std::copysign(std::abs(value) > unit / 2 ? unit : 0.0, value);
  std::snprintf(buffer, sizeof buffer, "%.*e", static_cast<int>(kept), value);
  return std::strtod(buffer, nullptr);
}

// Half goes to the even one.
Value rounded_integer(std::int64_t value, std::int64_t digits) {
  if (digits >= 0) return value;
  if (digits < -18) return std::int64_t{0};
  std::int64_t unit = 1;
  for (std::int64_t i = 0; i < -digits; ++i) unit *= 10;
  const Value floored = binary(Operator::kMul, binary(Operator::kFloorDiv, value, unit), unit);
  const std::int64_t rest = value - floored.integer();
  const bool odd = floored.integer() / unit % 2 != 0;
  return rest * 2 > unit || (rest * 2 == unit && odd) ? binary(Operator::kAdd, floored, unit) : floored;
}

Value round_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_round", "precision method", 0, std::move(arguments));
  const std::string method = bound.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor") {
    fail(FailureKind::kTemplate, "method must be common, ceil or floor");
  }
  const Value precision = bound.has(0) ? bound[0] : Value(0);
  if (!value.is_number()) {
    if (const auto* undefined = value.object<Undefined>(); undefined != nullptr && method != "common")
      undefined->fail();
    python_error("type {} doesn't define __round__ method", type_name(value));
  }
  if (method == "common") {
    if (precision.is<None>()) return value.is_integer() ? positive(value) : truncated(std::nearbyint(value.number()));
    const std::int64_t digits = as_integer(precision);
    return value.is_integer() ? rounded_integer(value.integer(), digits) : Value(rounded(value.number(), digits));
  }
  const Value unit = binary(Operator::kPow, 10, precision);
  const Value scaled = binary(Operator::kMul, value, unit);
  Value whole = scaled;
  if (scaled.is<double>()) {
    whole = truncated(method == "ceil" ? std::ceil(scaled.number()) : std::floor(scaled.number()));
  }
  return binary(Operator::kDiv, whole, unit);
}

Value file_size_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_filesizeformat", "binary", 0, std::move(arguments));
  if (value.is_text() && !parse_float(value.text())) python_error("could not convert string to float");
  if (!value.is_text() && !value.is_number()) python_error("float() argument must be a string or a real number");
  const double bytes = to_float_filter(interpreter, value, {}).number();
  const bool by_two = bound.flag(0);
  const double base = by_two ? 1024 : 1000;
  if (bytes == 1) return "1 Byte";
  if (bytes < base) return fmt::format("{} Bytes", static_cast<std::int64_t>(bytes));
  const std::string_view prefixes = by_two ? "KMGTPEZY" : "kMGTPEZY";
  double unit = base * base;
  std::size_t i = 0;
  for (; i + 1 < prefixes.size() && bytes >= unit; ++i) unit *= base;
  return format_value(base * bytes / unit, ".1f") + " " + prefixes[i] + (by_two ? "iB" : "B");
}

Value length_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("len", "", 0, std::move(arguments));
  return length_of(value);
}

}  // namespace

std::vector<Filter> number_filters() {
  return {{"abs", absolute_filter},   {"count", length_filter},   {"filesizeformat", file_size_filter},
          {"float", to_float_filter}, {"int", to_integer_filter}, {"length", length_filter},
          {"round", round_filter}};
}

}  // namespace metal_marlin::jinja

// Python's formatting of values: format specifications, str.format and the % of texts.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/interpreter.h"
#include "chat_template/library.h"

namespace metal_marlin::jinja {
namespace {

constexpr std::int64_t kMaxWidth = 1 << 20;
constexpr int kMaxPrecision = 1000;

struct FormatSpec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  std::int64_t width = 0;
  char grouping = '\0';
  int precision = -1;
  char type = '\0';
};

std::int64_t read_digits(std::string_view text, std::size_t& at) {
  std::int64_t value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    value = std::min(value * 10 + (text[at] - '0'), kMaxWidth + 1);
  }
  if (value > kMaxWidth) fail(FailureKind::kUnsupported, "a format wider than {}", kMaxWidth);
  return value;
}

int read_precision(std::string_view text, std::size_t& at) {
  const std::int64_t precision = read_digits(text, at);
  if (precision > kMaxPrecision) fail(FailureKind::kUnsupported, "a format's precision of more than {}", kMaxPrecision);
  return static_cast<int>(precision);
}

bool is_align(char c) {
  return c == '<' || c == '>' || c == '=' || c == '^';
}

FormatSpec parse_spec(std::string_view text) {
  FormatSpec spec;
  std::size_t at = 0;
  std::size_t after_fill = 0;
  if (!text.empty()) next_character(text, after_fill);
  const auto peek = [&] { return at < text.size() ? text[at] : '\0'; };
  if (after_fill < text.size() && is_align(text[after_fill])) {
    spec.fill = text.substr(0, after_fill);
    spec.align = text[after_fill];
    at = after_fill + 1;
  } else if (is_align(peek())) {
    spec.align = text[at++];
  }
  if (peek() == '+' || peek() == '-' || peek() == ' ') spec.sign = text[at++];
  if (peek() == '#') {
    spec.alternate = true;
    ++at;
  }
  if (peek() == '0') {
    if (spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
    ++at;
  }
  spec.width = read_digits(text, at);
  if (peek() == ',' || peek() == '_') spec.grouping = text[at++];
  if (peek() == '.') {
    const std::size_t before = ++at;
    spec.precision = read_precision(text, at);
    if (at == before) python_error("Format specifier missing precision");
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) python_error("Invalid format specifier");
  return spec;
}

std::string padded(const std::string& sign, const std::string& body, const FormatSpec& spec, char align) {
  const auto length = static_cast<std::int64_t>(count_characters(sign) + count_characters(body));
  const std::int64_t missing = std::max<std::int64_t>(spec.width - length, 0);
  const auto fill = [&](std::int64_t count) {
    std::string out;
    for (std::int64_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  switch (align) {
    case '<': return sign + body + fill(missing);
    case '^': return fill(missing / 2) + sign + body + fill(missing - missing / 2);
    case '=': return sign + fill(missing) + body;
    default: return fill(missing) + sign + body;
  }
}

// Puts a separator between groups of the digits that a number begins with.
std::string grouped(const std::string& number, char separator, std::size_t size) {
  if (separator == '\0') return number;
  const std::size_t digits = std::min(number.find_first_not_of("0123456789abcdefABCDEF"), number.size());
  std::string out;
  for (std::size_t i = 0; i < digits; ++i) {
    if (i > 0 && (digits - i) % size == 0) out += separator;
    out += number[i];
  }
  return out + number.substr(digits);
}

std::string sign_of(bool negative, char sign) {
  return negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : "";
}

std::string in_base(std::uint64_t value, int base) {
  char buffer[65];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value, base).ptr};
}

std::string printf_double(double value, const char* format, int precision) {
  std::string out(512 + static_cast<std::size_t>(precision), '\0');
  out.resize(static_cast<std::size_t>(std::snprintf(out.data(), out.size(), format, precision, value)));
  return out;
}

// The digits of |value|, as the type of a specification has them.
std::string float_digits(double value, const FormatSpec& spec) {
  const char type = spec.type;
  const double size = std::abs(value);
  const bool capital = type == 'F' || type == 'E' || type == 'G';
  if (!std::isfinite(size)) {
    const std::string text = std::isnan(size) ? "nan" : "inf";
    return capital ? upper(text) : type == '%' ? text + "%" : text;
  }
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  switch (type) {
    case 'f':
    case 'F': return printf_double(size, spec.alternate ? "%#.*f" : "%.*f", precision);
    case 'e': return printf_double(size, spec.alternate ? "%#.*e" : "%.*e", precision);
    case 'E': return printf_double(size, spec.alternate ? "%#.*E" : "%.*E", precision);
    case 'G': return printf_double(size, spec.alternate ? "%#.*G" : "%.*G", std::max(precision, 1));
    case '%': return printf_double(size * 100, "%.*f", precision) + "%";
    case '\0': break;
    default: return printf_double(size, spec.alternate ? "%#.*g" : "%.*g", std::max(precision, 1));
  }
  if (spec.precision < 0) return repr_double(size);
  // As 'g', but with a digit after the point, and an exponent one digit earlier.
  const int digits = std::max(spec.precision, 1);
  std::string text = printf_double(size, "%.*g", digits);
  const bool exponent = text.find('e') != text.npos;
  const int whole = size == 0 ? 0 : static_cast<int>(std::floor(std::log10(size))) + 1;
  if (!exponent && whole == digits && digits > 0 && size != 0) return printf_double(size, "%.*e", digits - 1);
  if (!exponent && text.find('.') == text.npos) text += ".0";
  return text;
}

std::string format_float(double value, const FormatSpec& spec) {
  if (std::string_view("eEfFgGn%").find(spec.type) == std::string_view::npos && spec.type != '\0') {
    python_error("Unknown format code '{}' for object of type 'float'", spec.type);
  }
  const std::string body = grouped(float_digits(value, spec), spec.grouping, 3);
  return padded(sign_of(std::signbit(value) && !std::isnan(value), spec.sign), body, spec,
                spec.align == '\0' ? '>' : spec.align);
}

std::string format_integer(std::int64_t value, const FormatSpec& spec) {
  if (std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos && spec.type != '\0') {
    return format_float(static_cast<double>(value), spec);
  }
  if (spec.precision >= 0) python_error("Precision not allowed in integer format specifier");
  if (std::string_view("bcdnoxX").find(spec.type) == std::string_view::npos && spec.type != '\0') {
    python_error("Unknown format code '{}' for object of type 'int'", spec.type);
  }
  std::string sign = sign_of(value < 0, spec.sign);
  std::string body;
  if (spec.type == 'c') {
    if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      python_error("%c arg not in range(0x110000)");
    }
    append_utf8(static_cast<char32_t>(value), body);
  } else {
    const int base = spec.type == 'b' ? 2 : spec.type == 'o' ? 8 : (spec.type | 0x20) == 'x' ? 16 : 10;
    const auto size = static_cast<std::uint64_t>(value);
    body = grouped(in_base(value < 0 ? 0 - size : size, base), spec.grouping, base == 10 ? 3 : 4);
    if (spec.alternate && base != 10) sign += std::string("0") + static_cast<char>(spec.type | 0x20);
    if (spec.type == 'X') {
      body = upper(body);
      if (spec.alternate) sign.back() = 'X';
    }
  }
  return padded(sign, body, spec, spec.align == '\0' ? '>' : spec.align);
}

std::string format_string(const std::string& text, const FormatSpec& spec) {
  if (spec.type != '\0' && spec.type != 's') {
    python_error("Unknown format code '{}' for object of type 'str'", spec.type);
  }
  if (spec.sign != '-' || spec.alternate || spec.align == '=') {
    if (spec.align != '=' || spec.fill != "0") python_error("this is not allowed in string format specifier");
  }
  std::string shown = text;
  if (spec.precision >= 0) shown = text.substr(0, place_of(text, static_cast<std::size_t>(spec.precision)));
  return padded("", shown, spec, spec.align == '\0' || spec.align == '=' ? '<' : spec.align);
}

// str.format: literal text, and fields in braces.
class Formatter {
 public:
  Formatter(Interpreter& interpreter, const Arguments& arguments, const Dict* map)
      : interpreter_(interpreter), arguments_(arguments), map_(map) {}

  std::string run(std::string_view text, int depth = 2) {
    if (depth < 0) python_error("Max string recursion exceeded");
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
      const char c = text[at];
      const bool twice = at + 1 < text.size() && text[at + 1] == c;
      if ((c == '{' || c == '}') && twice) {
        out += c;
        ++at;
      } else if (c == '}') {
        python_error("Single '}}' encountered in format string");
      } else if (c == '{') {
        const std::size_t end = field_end(text, at);
        out += field(text.substr(at + 1, end - at - 1), depth);
        check_size(out.size());
        at = end;
      } else {
        out += c;
      }
    }
    return out;
  }

 private:
  static std::size_t field_end(std::string_view text, std::size_t at) {
    int open = 0;
    for (; at < text.size(); ++at) {
      if (text[at] == '{') ++open;
      if (text[at] == '}' && --open == 0) return at;
    }
    python_error("expected '}}' before end of string");
  }

  std::string field(std::string_view text, int depth) {
    std::size_t name_end = 0;  // what is in brackets may hold any character
    for (bool brackets = false; name_end < text.size(); ++name_end) {
      const char c = text[name_end];
      if (c == '[') brackets = true;
      if (c == ']') brackets = false;
      if (!brackets && (c == ':' || c == '!')) break;
    }
    Value value = look_up(text.substr(0, name_end));
    std::string_view rest = text.substr(name_end);
    if (rest.starts_with('!')) {
      if (rest.size() < 2) python_error("end of string while looking for conversion specifier");
      const char conversion = rest[1];
      if (conversion != 's' && conversion != 'r' && conversion != 'a') python_error("Unknown conversion specifier");
      if (conversion == 'a') fail(FailureKind::kUnsupported, "the conversion !a");
      value = conversion == 'r' ? repr(value) : str(value);
      rest.remove_prefix(2);
      if (!rest.empty() && rest.front() != ':') python_error("expected ':' after conversion specifier");
    }
    if (!rest.empty()) rest.remove_prefix(1);
    return format_value(value, run(rest, depth - 1));
  }

  Value argument(std::string_view name) {
    const bool number =
        !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!number && !name.empty()) {
      if (map_ != nullptr) {
        if (const Value* found = map_->find(name)) return *found;
      }
      for (const auto& [there, value] : arguments_.named) {
        if (there == name) return value;
      }
      python_error("KeyError: {}", repr_text(name));
    }
    if (manual_.has_value() && *manual_ != number) {
      python_error("cannot switch from manual field specification to automatic field numbering, or back");
    }
    manual_ = number;
    std::size_t index = next_;
    if (number) {
      std::size_t at = 0;
      index = static_cast<std::size_t>(read_digits(name, at));
    } else {
      ++next_;
    }
    if (index >= arguments_.positional.size()) {
      python_error("Replacement index {} out of range for positional args tuple", index);
    }
    return arguments_.positional[index];
  }

  Value look_up(std::string_view name) {
    const std::size_t first = std::min(name.find_first_of(".["), name.size());
    if (first == 0 && !name.empty()) python_error("KeyError: ''");  // only an empty field is numbered
    Value value = argument(name.substr(0, first));
    std::string_view rest = name.substr(first);
    while (!rest.empty()) {
      if (rest.front() == '.') {
        const std::size_t end = std::min(rest.find_first_of(".[", 1), rest.size());
        if (end == 1) python_error("Empty attribute in format string");
        value = interpreter_.attribute(value, std::string(rest.substr(1, end - 1)));
        rest.remove_prefix(end);
        continue;
      }
      const std::size_t end = rest.front() == '[' ? rest.find(']') : rest.npos;
      if (end == rest.npos || end == 1) python_error("Missing ']' in format string");
      const std::string_view key = rest.substr(1, end - 1);
      std::int64_t index = 0;
      const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), index);
      const bool number = error == std::errc() && stop == key.data() + key.size() && key.front() != '-';
      value = interpreter_.item(value, number ? Value(index) : Value(key));
      rest.remove_prefix(end + 1);
    }
    return value;
  }

  Interpreter& interpreter_;
  const Arguments& arguments_;
  const Dict* map_;
  std::size_t next_ = 0;
  std::optional<bool> manual_;
};

// A text's % : the values for its conversions, in order or by name.
class PercentFormatter {
 public:
  explicit PercentFormatter(const Value& arguments) : arguments_(arguments) {
    if (const auto* tuple = arguments.object<Sequence>(); tuple != nullptr && tuple->tuple) {
      values_ = tuple->items;
    } else {
      values_ = {arguments};
    }
  }

  std::string run(std::string_view text) {
    std::string out;
    for (at_ = 0; at_ < text.size(); ++at_) {
      if (text[at_] != '%') {
        out += text[at_];
        continue;
      }
      ++at_;
      out += conversion(text);
      check_size(out.size());
    }
    const bool mapping = arguments_.is<Ref<const Dict>>() || arguments_.is<Ref<const Sequence>>();
    const bool tuple = mapping && arguments_.object<Sequence>() != nullptr && arguments_.object<Sequence>()->tuple;
    if (next_ < values_.size() && (tuple || !mapping)) {
      python_error("not all arguments converted during string formatting");
    }
    return out;
  }

 private:
  const Value& next() {
    if (next_ >= values_.size()) python_error("not enough arguments for format string");
    return values_[next_++];
  }

  const Value& by_name(std::string_view text) {
    const std::size_t end = text.find(')', at_);
    if (end == text.npos) python_error("incomplete format key");
    const auto* const dict = arguments_.object<Dict>();
    if (dict == nullptr) python_error("format requires a mapping");
    const std::string_view key = text.substr(at_ + 1, end - at_ - 1);
    const Value* const found = dict->find(key);
    if (found == nullptr) python_error("KeyError: {}", repr_text(key));
    at_ = end + 1;
    return *found;
  }

  std::string conversion(std::string_view text) {
    const Value* named = nullptr;
    if (at_ < text.size() && text[at_] == '(') named = &by_name(text);
    FormatSpec spec;
    bool left = false;
    for (; at_ < text.size() && std::string_view("-+ #0").find(text[at_]) != std::string_view::npos; ++at_) {
      if (text[at_] == '-') left = true;
      if (text[at_] == '+' || (text[at_] == ' ' && spec.sign != '+')) spec.sign = text[at_];
      if (text[at_] == '#') spec.alternate = true;
      if (text[at_] == '0') spec.fill = "0";
    }
    if (at_ < text.size() && text[at_] == '*') fail(FailureKind::kUnsupported, "a width of * in a % format");
    spec.width = read_digits(text, at_);
    if (at_ < text.size() && text[at_] == '.') {
      ++at_;
      spec.precision = read_precision(text, at_);
    }
    if (at_ < text.size() && std::string_view("hlL").find(text[at_]) != std::string_view::npos) ++at_;
    if (at_ >= text.size()) python_error("incomplete format");
    spec.type = text[at_];
    if (spec.type == '%') return "%";
    if (left) {
      spec.align = '<';
      spec.fill = " ";
    } else if (spec.fill == "0") {
      spec.align = '=';
    } else {
      spec.align = '>';
    }
    return convert(named != nullptr ? *named : next(), spec);
  }

  static std::string convert(const Value& value, FormatSpec spec) {
    const char type = spec.type;
    if (type == 's' || type == 'r') {
      spec.type = '\0';
      spec.sign = '-';
      spec.alternate = false;
      if (spec.align == '=') spec.align = '>';
      spec.fill = " ";
      return format_string(type == 's' ? str(value) : repr(value), spec);
    }
    if (type == 'c' && value.is_text()) {
      if (value.object<Text>()->length != 1) python_error("%c requires int or char");
      spec.type = '\0';
      return format_string(value.text(), spec);
    }
    if (std::string_view("diouxXcfFeEgG").find(type) == std::string_view::npos) {
      python_error("unsupported format character '{}'", type);
    }
    if (!value.is_number()) {
      if (const auto* undefined = value.object<Undefined>()) undefined->fail();
      python_error("%{} format: a real number is required, not {}", type, type_name(value));
    }
    if (std::string_view("fFeEgG").find(type) != std::string_view::npos) return format_float(value.number(), spec);
    if (value.is<double>() && type != 'd' && type != 'i' && type != 'u') {
      python_error("%{} format: an integer is required, not float", type);
    }
    if (value.is<double>() && !(std::abs(value.number()) < 9e18)) {
      fail(FailureKind::kUnsupported, "an integer beyond 64 bits");
    }
    if (type == 'i' || type == 'u') spec.type = 'd';
    return percent_integer(value.is<double>() ? static_cast<std::int64_t>(value.number()) : value.integer(), spec);
  }

  // A precision is the least number of digits, here.
  static std::string percent_integer(std::int64_t value, FormatSpec spec) {
    if (spec.precision < 0) return format_integer(value, spec);
    FormatSpec digits = spec;
    digits.width = spec.precision + static_cast<int>(value < 0 || spec.sign != '-') + (spec.alternate ? 2 : 0);
    digits.precision = -1;
    digits.fill = "0";
    digits.align = '=';
    spec.precision = -1;
    if (spec.align == '=') spec.align = '>';
    return padded("", format_integer(value, digits), spec, spec.align);
  }

  const Value& arguments_;
  std::vector<Value> values_;
  std::size_t next_ = 0;
  std::size_t at_ = 0;
};

}  // namespace

std::string format_value(const Value& value, std::string_view text) {
  if (value.is<bool>() && text.empty()) return str(value);
  if (!value.is_number() && !value.is_text() && !value.is_undefined()) {
    if (!text.empty()) python_error("unsupported format string passed to {}.__format__", type_name(value));
    return str(value);
  }
  if (value.is_undefined() && !text.empty()) {
    python_error("unsupported format string passed to Undefined.__format__");
  }
  const FormatSpec spec = parse_spec(text);
  if (value.is_integer()) return format_integer(value.integer(), spec);
  if (value.is<double>()) return format_float(value.number(), spec);
  return format_string(str(value), spec);
}

Value format_text(Interpreter& interpreter, const Value& self, Arguments arguments, bool with_map) {
  const Dict* map = nullptr;
  Value keep;
  if (with_map) {
    const Bound bound("format_map", "mapping", 1, std::move(arguments));
    keep = bound[0];
    map = keep.object<Dict>();
    arguments = {};
  }
  return Formatter(interpreter, arguments, map).run(self.text());
}

Value percent_format(const Value& self, const Value& arguments) {
  std::string out = PercentFormatter(arguments).run(self.text());
  return self.is_safe() ? Value::safe_text(std::move(out)) : Value(std::move(out));
}

}  // namespace metal_marlin::jinja

// The methods of Python's str.
#include <algorithm>
#include <map>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/library.h"
#include "chat_template/operators.h"

namespace metal_marlin::jinja {
namespace {

using Method = Value (*)(Interpreter&, const Value&, Arguments);

Value text_list(const std::vector<std::string>& texts) {
  return Value::list(std::vector<Value>(texts.begin(), texts.end()));
}

template <std::string (*map)(std::string_view)>
Value mapped(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("str method", "", 0, std::move(arguments));
  return map(self.text());
}

template <bool (*is)(char32_t)>
Value are_all_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("str method", "", 0, std::move(arguments));
  return all_of(self.text(), is);
}

bool is_alphanumeric(char32_t c) {
  return is_letter(c) || is_numeric(c);
}

// Whether there are letters of one case, and none of the other.
template <bool (*is)(char32_t), bool (*is_other)(char32_t)>
Value is_case_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("str method", "", 0, std::move(arguments));
  bool found = false;
  for (std::size_t at = 0; at < self.text().size();) {
    const char32_t c = next_character(self.text(), at);
    if (is_other(c) || is_title(c)) return false;
    found = found || is(c);
  }
  return found;
}

Value is_title_text_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("istitle", "", 0, std::move(arguments));
  bool in_word = false;
  bool found = false;
  for (std::size_t at = 0; at < self.text().size();) {
    const char32_t c = next_character(self.text(), at);
    if ((is_upper(c) || is_title(c)) == in_word && is_cased(c)) return false;
    in_word = is_cased(c);
    found = found || in_word;
  }
  return found;
}

Value is_ascii_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("isascii", "", 0, std::move(arguments));
  return self.object<Text>()->ascii();
}

Value is_printable_text_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("isprintable", "", 0, std::move(arguments));
  return self.text().empty() || all_of(self.text(), is_printable);
}

Value is_identifier_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("isidentifier", "", 0, std::move(arguments));
  std::size_t at = 0;
  return !self.text().empty() && is_identifier_start(next_character(self.text(), at)) &&
         all_of(self.text(), is_identifier_part);
}

template <unsigned sides>
Value stripped_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("strip", "chars", 0, std::move(arguments));
  if (!bound.given(0)) return strip(self.text(), sides);
  return strip(self.text(), bound.text(0, ""), sides);
}

std::string not_empty(const Bound& bound, std::size_t index) {
  std::string separator = bound.text(index, "");
  if (separator.empty()) python_error("empty separator");
  return separator;
}

Value split_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("split", "sep maxsplit", 0, std::move(arguments));
  const std::int64_t most = bound.integer(1, -1);
  if (!bound.given(0)) return text_list(split_words(self.text(), most));
  const std::string separator = not_empty(bound, 0);
  std::vector<std::string> parts;
  std::string_view rest = self.text();
  std::int64_t count = 0;
  for (std::size_t found = 0; most < 0 || count < most; ++count) {
    found = rest.find(separator);
    if (found == rest.npos) break;
    parts.emplace_back(rest.substr(0, found));
    rest.remove_prefix(found + separator.size());
  }
  parts.emplace_back(rest);
  return text_list(parts);
}

Value split_from_right_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("rsplit", "sep maxsplit", 0, std::move(arguments));
  const std::int64_t most = bound.integer(1, -1);
  if (!bound.given(0)) return text_list(split_words_from_right(self.text(), most));
  const std::string separator = not_empty(bound, 0);
  std::vector<std::string> parts;
  std::string_view rest = self.text();
  for (std::int64_t count = 0; most < 0 || count < most; ++count) {
    const std::size_t found = rest.rfind(separator);
    if (found == rest.npos) break;
    parts.emplace_back(rest.substr(found + separator.size()));
    rest = rest.substr(0, found);
  }
  parts.emplace_back(rest);
  std::reverse(parts.begin(), parts.end());
  return text_list(parts);
}

Value lines_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("splitlines", "keepends", 0, std::move(arguments));
  return text_list(split_lines(self.text(), bound.flag(0)));
}

template <bool right>
Value partition_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("partition", "sep", 1, std::move(arguments));
  const std::string separator = not_empty(bound, 0);
  const std::string_view text = self.text();
  const std::size_t found = right ? text.rfind(separator) : text.find(separator);
  if (found == text.npos) {
    return right ? Value::tuple({"", "", Value(text)}) : Value::tuple({Value(text), "", ""});
  }
  return Value::tuple({Value(text.substr(0, found)), Value(separator), Value(text.substr(found + separator.size()))});
}

Value join_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("join", "iterable", 1, std::move(arguments));
  if (!is_iterable(bound[0])) python_error("can only join an iterable");
  const std::vector<Value> items = elements(bound[0]);
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_text()) {
      python_error("sequence item {}: expected str instance, {} found", i, type_name(items[i]));
    }
    if (i > 0) out += self.text();
    out += items[i].text();
    check_size(out.size());
  }
  return out;
}

Value replace_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("replace", "old new count", 2, std::move(arguments));
  return replace_all(self.text(), bound.text(0, ""), bound.text(1, ""), bound.integer(2, -1));
}

// The part text[start:end] that a search is in, and how many characters lie before it; nullopt: start is past the end.
struct Part {
  std::string_view text;
  std::int64_t before;
};
std::optional<Part> searched(const Value& self, const Bound& bound) {
  const std::int64_t length = length_of(self);
  const auto clamp = [&](std::int64_t at) { return std::max<std::int64_t>(at < 0 ? at + length : at, 0); };
  const std::int64_t start = clamp(bound.given(1) ? as_integer(bound[1]) : 0);
  const std::int64_t end = std::min(clamp(bound.given(2) ? as_integer(bound[2]) : length), length);
  if (start > end) return std::nullopt;
  const std::string_view text = self.text();
  const std::size_t begin = place_of(text, static_cast<std::size_t>(start));
  const std::string_view rest = text.substr(begin);
  return Part{rest.substr(0, place_of(rest, static_cast<std::size_t>(end - start))), start};
}

// from_right: the last place; must: where there is none, it is an error.
template <bool from_right, bool must>
Value find_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("find", "sub start end", 1, std::move(arguments));
  const std::string sub = bound.text(0, "");
  if (const auto part = searched(self, bound)) {
    const std::size_t at = from_right ? part->text.rfind(sub) : part->text.find(sub);
    if (at != std::string_view::npos) {
      return part->before + static_cast<std::int64_t>(count_characters(part->text.substr(0, at)));
    }
  }
  if (must) python_error("substring not found");
  return std::int64_t{-1};
}

Value count_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("count", "sub start end", 1, std::move(arguments));
  const std::string sub = bound.text(0, "");
  const auto part = searched(self, bound);
  if (!part) return std::int64_t{0};
  if (sub.empty()) return static_cast<std::int64_t>(count_characters(part->text)) + 1;
  std::int64_t found = 0;
  for (std::size_t at = part->text.find(sub); at != std::string_view::npos;
       at = part->text.find(sub, at + sub.size())) {
    ++found;
  }
  return found;
}

template <bool at_end>
Value begins_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound(at_end ? "endswith" : "startswith", "prefix start end", 1, std::move(arguments));
  std::vector<Value> choices = {bound[0]};
  if (const auto* tuple = bound[0].object<Sequence>(); tuple != nullptr && tuple->tuple) choices = tuple->items;
  const auto part = searched(self, bound);
  bool found = false;
  for (const Value& choice : choices) {
    const std::string& affix = as_text(at_end ? "endswith first" : "startswith first", choice);
    found = found || (part && (at_end ? part->text.ends_with(affix) : part->text.starts_with(affix)));
  }
  return found;
}

template <bool at_end>
Value remove_affix_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("removeprefix", "prefix", 1, std::move(arguments));
  const std::string affix = bound.text(0, "");
  std::string_view text = self.text();
  if (at_end ? text.ends_with(affix) : text.starts_with(affix)) {
    text = text.substr(at_end ? 0 : affix.size(), text.size() - affix.size());
  }
  return text;
}

// The blanks to put before and after a text for it to be `width` long.
using Padding = std::pair<std::int64_t, std::int64_t> (*)(std::int64_t missing, std::int64_t width);
std::pair<std::int64_t, std::int64_t> both_sides(std::int64_t missing, std::int64_t width) {
  const std::int64_t left = missing / 2 + (missing & width & 1);
  return {left, missing - left};
}
std::pair<std::int64_t, std::int64_t> after(std::int64_t missing, std::int64_t /*width*/) {
  return {0, missing};
}
std::pair<std::int64_t, std::int64_t> before(std::int64_t missing, std::int64_t /*width*/) {
  return {missing, 0};
}
template <Padding padding>
Value pad_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("center", "width fillchar", 1, std::move(arguments));
  const std::string fill = bound.text(1, " ");
  if (count_characters(fill) != 1) python_error("The fill character must be exactly one character long");
  const std::int64_t width = as_integer(bound[0]);
  const std::int64_t missing = width - length_of(self);
  if (missing <= 0) return self.text();
  const auto [left_count, right_count] = padding(missing, width);
  const Value left = binary(Operator::kMul, fill, left_count);
  const Value right = binary(Operator::kMul, fill, right_count);
  return left.text() + self.text() + right.text();
}

Value fill_zeros_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("zfill", "width", 1, std::move(arguments));
  const std::int64_t missing = as_integer(bound[0]) - length_of(self);
  if (missing <= 0) return self.text();
  std::string text = self.text();
  const bool sign = text.starts_with('+') || text.starts_with('-');
  return text.insert(sign ? 1 : 0, binary(Operator::kMul, "0", missing).text());
}

Value expand_tabs_method(Interpreter& /*interpreter*/, const Value& self, Arguments arguments) {
  const Bound bound("expandtabs", "tabsize", 0, std::move(arguments));
  const std::int64_t size = bound.integer(0, 8);
  std::string out;
  std::int64_t column = 0;
  for (std::size_t at = 0; at < self.text().size();) {
    const std::size_t begin = at;
    const char32_t c = next_character(self.text(), at);
    if (c == U'\t') {
      const std::int64_t blanks = size > 0 ? size - column % size : 0;
      check_size(out.size() + static_cast<std::size_t>(blanks));
      out.append(static_cast<std::size_t>(blanks), ' ');
      column += blanks;
      continue;
    }
    out.append(self.text(), begin, at - begin);
    column = c == U'\n' || c == U'\r' ? 0 : column + 1;
  }
  return out;
}

Value format_method(Interpreter& interpreter, const Value& self, Arguments arguments) {
  return format_text(interpreter, self, std::move(arguments));
}

Value format_map_method(Interpreter& interpreter, const Value& self, Arguments arguments) {
  return format_text(interpreter, self, std::move(arguments), true);
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): its type is that of all methods
Value refuse_method(Interpreter& /*interpreter*/, const Value& /*self*/, Arguments /*arguments*/) {
  fail(FailureKind::kUnsupported, "bytes and translation tables: str.encode, maketrans, translate");
}

const std::map<std::string_view, Method>& methods() {
  static const std::map<std::string_view, Method> all = {{"capitalize", mapped<capitalize>},
                                                         {"casefold", mapped<casefold>},
                                                         {"center", pad_method<both_sides>},
                                                         {"count", count_method},
                                                         {"encode", refuse_method},
                                                         {"endswith", begins_method<true>},
                                                         {"expandtabs", expand_tabs_method},
                                                         {"find", find_method<false, false>},
                                                         {"format", format_method},
                                                         {"format_map", format_map_method},
                                                         {"index", find_method<false, true>},
                                                         {"isalnum", are_all_method<is_alphanumeric>},
                                                         {"isalpha", are_all_method<is_letter>},
                                                         {"isascii", is_ascii_method},
                                                         {"isdecimal", are_all_method<is_decimal>},
                                                         {"isdigit", are_all_method<is_digit>},
                                                         {"isidentifier", is_identifier_method},
                                                         {"islower", is_case_method<is_lower, is_upper>},
                                                         {"isnumeric", are_all_method<is_numeric>},
                                                         {"isprintable", is_printable_text_method},
                                                         {"isspace", are_all_method<is_space>},
                                                         {"istitle", is_title_text_method},
                                                         {"isupper", is_case_method<is_upper, is_lower>},
                                                         {"join", join_method},
                                                         {"ljust", pad_method<after>},
                                                         {"lower", mapped<lower>},
                                                         {"lstrip", stripped_method<kLeft>},
                                                         {"maketrans", refuse_method},
                                                         {"partition", partition_method<false>},
                                                         {"removeprefix", remove_affix_method<false>},
                                                         {"removesuffix", remove_affix_method<true>},
                                                         {"replace", replace_method},
                                                         {"rfind", find_method<true, false>},
                                                         {"rindex", find_method<true, true>},
                                                         {"rjust", pad_method<before>},
                                                         {"rpartition", partition_method<true>},
                                                         {"rsplit", split_from_right_method},
                                                         {"rstrip", stripped_method<kRight>},
                                                         {"split", split_method},
                                                         {"splitlines", lines_method},
                                                         {"startswith", begins_method<false>},
                                                         {"strip", stripped_method<kBothSides>},
                                                         {"swapcase", mapped<swapcase>},
                                                         {"title", mapped<title>},
                                                         {"translate", refuse_method},
                                                         {"upper", mapped<upper>},
                                                         {"zfill", fill_zeros_method}};
  return all;
}

}  // namespace

bool has_text_method(std::string_view name) {
  return methods().contains(name);
}

Value call_text_method(Interpreter& interpreter, const Value& self, std::string_view name, Arguments arguments) {
  charge(self.text().size());
  static constexpr std::string_view kNamed[] = {"expandtabs", "format", "rsplit", "split", "splitlines"};
  if (!arguments.named.empty() && std::find(std::begin(kNamed), std::end(kNamed), name) == std::end(kNamed)) {
    python_error("str.{}() takes no keyword arguments", name);
  }
  Value out = methods().at(name)(interpreter, self, std::move(arguments));
  return self.is_safe() && out.is_text() ? Value::safe_text(out.text()) : out;
}

}  // namespace metal_marlin::jinja

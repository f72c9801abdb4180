// The filters that give texts.
#include <algorithm>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/json_text.h"
#include "chat_template/library.h"
#include "chat_template/operators.h"

namespace metal_marlin::jinja {
namespace {

// A text that stays marked as HTML where `like` is.
Value text_like(const Value& like, std::string text) {
  return like.is_safe() ? Value::safe_text(std::move(text)) : Value(std::move(text));
}

template <std::string (*map)(std::string_view)>
Value mapped_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("filter", "", 0, std::move(arguments));
  return text_like(value, map(str(value)));
}

// Capitals after blanks, hyphens and opening brackets.
std::string title_words(std::string_view text) {
  std::string out;
  const auto begins_word = [](char32_t c) {
    return is_space(c) || std::u32string_view(U"-({[<").find(c) != std::u32string_view::npos;
  };
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    std::size_t next = at;
    const bool between = begins_word(next_character(text, next));
    while (end < text.size()) {
      next = end;
      if (begins_word(next_character(text, next)) != between) break;
      end = next;
    }
    if (between) {
      out += text.substr(at, end - at);
    } else {
      next = at;
      next_character(text, next);
      out += upper(text.substr(at, next - at)) + lower(text.substr(next, end - next));
    }
    at = end;
  }
  return out;
}

Value trim_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_trim", "chars", 0, std::move(arguments));
  const std::string text = str(value);
  return text_like(value, std::string(bound.given(0) ? strip(text, bound.text(0, ""), kBothSides) : strip(text)));
}

Value replace_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_replace", "old new count", 2, std::move(arguments));
  const std::int64_t count = bound.given(2) ? as_integer(bound[2]) : -1;
  return text_like(value, replace_all(str(value), str(bound[0]), str(bound[1]), count));
}

Value string_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("soft_str", "", 0, std::move(arguments));
  return value.is_text() ? value : Value(str(value));
}

Value escape_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("escape", "", 0, std::move(arguments));
  return value.is_safe() ? value : Value::safe_text(html_escape(str(value)));
}

Value force_escape_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_forceescape", "", 0, std::move(arguments));
  return Value::safe_text(html_escape(str(value)));
}

Value mark_safe_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_mark_safe", "", 0, std::move(arguments));
  return Value::safe_text(str(value));
}

Value center_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_center", "width", 0, std::move(arguments));
  return call_text_method(interpreter, value.is_text() ? value : Value(str(value)), "center",
                          {{bound.has(0) ? bound[0] : Value(80)}, {}});
}

const std::string& needs_text(const Value& value) {
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (!value.is_text()) python_error("unsupported operand type(s) for +=: '{}' and 'str'", type_name(value));
  return value.text();
}

Value indent_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_indent", "width first blank", 0, std::move(arguments));
  const std::string text = needs_text(value) + "\n";
  std::string blanks;
  if (bound.has(0) && bound[0].is_text()) {
    blanks = bound[0].text();
  } else {
    blanks = binary(Operator::kMul, " ", Value(bound.integer(0, 4))).text();
  }
  const bool blank = bound.flag(2);
  std::string out = bound.flag(1) ? blanks : "";
  const std::vector<std::string> lines = split_lines(text);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += blanks;
    out += lines[i];
    check_size(out.size());
  }
  return text_like(value, out);
}

Value truncate_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_truncate", "length killwords end leeway", 0, std::move(arguments));
  const std::int64_t length = bound.integer(0, 255);
  const std::string end = bound.text(2, "...");
  const std::int64_t leeway = bound.given(3) ? as_integer(bound[3]) : 5;
  const auto end_length = static_cast<std::int64_t>(count_characters(end));
  if (length < end_length) python_error("expected length >= {}, got {}", end_length, length);
  if (leeway < 0) python_error("expected leeway >= 0, got {}", leeway);
  if (length_of(value) <= length + leeway) return value;
  const Value kept = slice(value, None{}, length - end_length, None{});
  std::string text = kept.text();
  if (!bound.flag(1)) text = text.substr(0, std::min(text.rfind(' '), text.size()));
  return text_like(value, text + end);
}

Value word_count_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_wordcount", "", 0, std::move(arguments));
  const std::string text = str(value);
  std::int64_t count = 0;
  bool in_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    const bool part = c == U'_' || is_letter(c) || is_numeric(c);
    count += static_cast<std::int64_t>(part && !in_word);
    in_word = part;
  }
  return count;
}

std::string url_quote(const std::string& text, bool query) {
  std::string out;
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter || std::string_view("_.-~").find(c) != std::string_view::npos || (c == '/' && !query)) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

Value url_encode_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_urlencode", "", 0, std::move(arguments));
  if (value.is_text() || !is_iterable(value)) return url_quote(str(value), false);
  const auto* const dict = value.get<Ref<const Dict>>();
  const std::vector<Value> pairs = dict ? DictView(*dict, View::kItems).items() : elements(value);
  std::string out;
  for (const Value& pair : pairs) {
    const std::vector<Value> both = elements(pair);
    if (both.size() != 2) python_error("wrong number of values to unpack (expected 2)");
    out += (out.empty() ? "" : "&") + url_quote(str(both[0]), true) + "=" + url_quote(str(both[1]), true);
  }
  return out;
}

Value xml_attributes_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_xmlattr", "autospace", 0, std::move(arguments));
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  const auto* const dict = value.object<Dict>();
  if (dict == nullptr) python_error("'{}' object has no attribute 'items'", type_name(value));
  std::string out;
  for (const auto& [key, item] : dict->items()) {
    if (item.is<None>() || item.is_undefined()) continue;
    const std::string& name = as_text("xmlattr", key);
    if (name.find_first_of(" \t\n\r\f\v/>=") != name.npos) {
      python_error("Invalid character in attribute name: {}", repr(key));
    }
    out += (out.empty() ? "" : " ") + html_escape(name) + "=\"" +
           (item.is_safe() ? item.text() : html_escape(str(item))) + "\"";
  }
  const bool space = !bound.has(0) || bound.flag(0);
  return (space && !out.empty() ? " " : "") + out;
}

Value format_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  if (!arguments.named.empty() && !arguments.positional.empty()) {
    fail(FailureKind::kTemplate, "can't handle positional and keyword arguments at the same time");
  }
  const Value text = value.is_text() ? value : Value(str(value));
  if (arguments.named.empty()) return percent_format(text, Value::tuple(std::move(arguments.positional)));
  Dict::Items items;
  for (auto& [name, item] : arguments.named) items.emplace_back(name, std::move(item));
  return percent_format(text, std::make_shared<const Dict>(std::move(items)));
}

// The character that an HTML entity at the front of a text stands for, and its length; 0: it is none that we know.
std::pair<std::string, std::size_t> entity(std::string_view text) {
  static constexpr std::pair<std::string_view, std::string_view> kNamed[] = {
      {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"}, {"&nbsp;", "\u00A0"}};
  for (const auto& [name, character] : kNamed) {
    if (text.starts_with(name)) return {std::string(character), name.size()};
  }
  if (!text.starts_with("&#")) return {{}, 0};
  const bool hexadecimal = text.size() > 2 && (text[2] | 0x20) == 'x';
  std::size_t at = hexadecimal ? 3 : 2;
  std::uint32_t code = 0;
  const std::size_t begin = at;
  for (; at < text.size() && code <= 0x10FFFF; ++at) {
    const std::size_t digit =
        std::string_view("0123456789abcdef").find(static_cast<char>(text[at] >= 'A' ? text[at] | 0x20 : text[at]));
    if (digit == std::string_view::npos || (!hexadecimal && digit > 9)) break;
    code = code * (hexadecimal ? 16 : 10) + static_cast<std::uint32_t>(digit);
  }
  if (at == begin) return {{}, 0};
  if (code == 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) code = 0xFFFD;
  std::string out;
  append_utf8(code, out);
  return {out, at + static_cast<std::size_t>(at < text.size() && text[at] == ';')};
}

Value strip_tags_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_striptags", "", 0, std::move(arguments));
  std::string text = str(value);
  const auto drop = [&](std::string_view open, std::string_view close) {
    std::string out;
    std::size_t at = 0;
    for (;;) {
      const std::size_t begin = text.find(open, at);
      const std::size_t end = begin == text.npos ? text.npos : text.find(close, begin);
      if (end == text.npos) break;
      out.append(text, at, begin - at);
      at = end + close.size();
    }
    text = out.append(text, at);
  };
  drop("<!--", "-->");
  drop("<", ">");
  std::string out;
  for (const std::string& word : split_words(text)) out += (out.empty() ? "" : " ") + word;
  std::string plain;
  for (std::size_t at = 0; at < out.size();) {
    const auto [character, length] = entity(std::string_view(out).substr(at));
    plain += length > 0 ? character : std::string(1, out[at]);
    at += std::max<std::size_t>(length, 1);
  }
  return plain;
}

Value to_json_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("tojson", "ensure_ascii indent separators sort_keys", 0, std::move(arguments));
  JsonStyle style;
  style.ascii = bound.flag(0);
  style.sorted = bound.flag(3);
  std::string indent;
  if (bound.given(1)) {
    indent = bound[1].is_text() ? bound[1].text() : binary(Operator::kMul, " ", Value(as_integer(bound[1]))).text();
    style.indent = &indent;
    style.item_separator = ",";
  }
  if (bound.given(2)) {
    const std::vector<Value> both = elements(bound[2]);
    if (both.size() != 2) python_error("wrong number of values to unpack (expected 2)");
    style.item_separator = as_text("separators", both[0]);
    style.key_separator = as_text("separators", both[1]);
  }
  return write_json_value(value, style);
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): its type is that of all filters
Value refuse_filter(Interpreter& /*interpreter*/, const Value& /*value*/, Arguments /*arguments*/) {
  fail(FailureKind::kUnsupported, "the filters pprint, random, urlize and wordwrap");
}

}  // namespace

std::vector<Filter> text_filters() {
  return {{"capitalize", mapped_filter<capitalize>},
          {"center", center_filter},
          {"e", escape_filter},
          {"escape", escape_filter},
          {"forceescape", force_escape_filter},
          {"format", format_filter},
          {"indent", indent_filter},
          {"lower", mapped_filter<lower>},
          {"pprint", refuse_filter},
          {"random", refuse_filter},
          {"replace", replace_filter},
          {"safe", mark_safe_filter},
          {"string", string_filter},
          {"striptags", strip_tags_filter},
          {"title", mapped_filter<title_words>},
          {"tojson", to_json_filter},
          {"trim", trim_filter},
          {"truncate", truncate_filter},
          {"upper", mapped_filter<upper>},
          {"urlencode", url_encode_filter},
          {"urlize", refuse_filter},
          {"wordcount", word_count_filter},
          {"wordwrap", refuse_filter},
          {"xmlattr", xml_attributes_filter}};
}

}  // namespace metal_marlin::jinja

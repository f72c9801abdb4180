#include "tool_calls/value_reader.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/unicode.h"
#include "tool_calls/delimiter.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kMostDepth = 64;
constexpr std::size_t kMostWord = 64;
constexpr std::string_view kGemmaQuote = "<|\"|>";

// In a text: its end may begin, or something that JSON escapes.
bool may_mean_something(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\'' || c == '\\' || c == '<';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_word_byte(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '+' ||
         c == '.' || c == '$';
}

std::string_view skip_digits(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of("0123456789"), text.size()));
  return text;
}

// As JSON spells numbers.
bool is_number(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  if (text.empty() || !is_digit(text[0]) || (text.size() > 1 && text[0] == '0' && is_digit(text[1]))) return false;
  text = skip_digits(text);
  if (text.starts_with('.')) {
    if (text.size() < 2 || !is_digit(text[1])) return false;
    text = skip_digits(text.substr(1));
  }
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
    if (text.empty()) return false;
    text = skip_digits(text);
  }
  return text.empty();
}

std::string_view json_word(std::string_view word, ValueDialect dialect) {
  if (word == "true" || word == "false" || word == "null" || is_number(word)) return word;
  if (dialect == ValueDialect::kJson) return {};
  if (word == "True") return "true";
  if (word == "False") return "false";
  if (word == "None") return "null";
  return {};
}

std::optional<char32_t> hexadecimal(std::string_view digits) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return static_cast<char32_t>(value);
}

void append_hexadecimal(char32_t unit, std::string& out) {
  constexpr std::string_view digits = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += digits[(unit >> shift) & 15U];
}

}  // namespace

ValueReader ValueReader::keyword_arguments() {
  ValueReader reader(ValueDialect::kPython);
  reader.frames_.push_back(Frame::kKeywords);
  reader.stage_ = Stage::kFirstKey;
  return reader;
}

std::size_t ValueReader::read(std::string_view text, bool last, std::string& out) {
  std::size_t at = 0;
  if (!begun_ && !frames_.empty()) {  // what the '(' stands for
    out += '{';
    begun_ = true;
  }
  while (stage_ != Stage::kDone && stage_ != Stage::kFailed && at < text.size()) {
    const std::size_t taken = step(text.substr(at), last, out);
    if (taken == 0) break;
    at += taken;
  }
  return at;
}

// \returns 0: more is needed, or it failed.
std::size_t ValueReader::step(std::string_view rest, bool last, std::string& out) {
  if (stage_ == Stage::kText) return read_text(rest, last, out);
  if (is_space_byte(rest[0])) {
    if (dialect_ == ValueDialect::kJson && begun_) out += rest[0];
    return 1;
  }
  begun_ = true;
  switch (stage_) {
    case Stage::kValue:
    case Stage::kFirstValue: return read_value(rest, last, out);
    case Stage::kKey:
    case Stage::kFirstKey: return read_key(rest, last, out);
    default: return between(rest, out);
  }
}

std::size_t ValueReader::fail() {
  stage_ = Stage::kFailed;
  return 0;
}

bool ValueReader::closes(char c) const {
  if (frames_.empty()) return false;
  if (frames_.back() == Frame::kList) return c == ']';
  return c == (frames_.back() == Frame::kKeywords ? ')' : '}');
}

void ValueReader::open(Frame frame, std::string& out) {
  frames_.push_back(frame);
  out += frame == Frame::kList ? '[' : '{';
  stage_ = frame == Frame::kList ? Stage::kFirstValue : Stage::kFirstKey;
}

std::size_t ValueReader::close(std::string& out) {
  out += frames_.back() == Frame::kList ? ']' : '}';
  frames_.pop_back();
  end_value();
  return 1;
}

void ValueReader::end_value() {
  stage_ = frames_.empty() ? Stage::kDone : Stage::kComma;
}

std::size_t ValueReader::between(std::string_view rest, std::string& out) {
  if (stage_ == Stage::kColon) {
    if (rest[0] != (frames_.back() == Frame::kKeywords ? '=' : ':')) return fail();
    out += dialect_ == ValueDialect::kJson ? ":" : ": ";
    stage_ = Stage::kValue;
    return 1;
  }
  if (closes(rest[0])) return close(out);
  if (rest[0] != ',') return fail();
  // Python lets a comma stand at the end; it is written with what follows it.
  if (dialect_ == ValueDialect::kJson) out += ',';
  stage_ = frames_.back() == Frame::kList ? Stage::kValue : Stage::kKey;
  return 1;
}

std::size_t ValueReader::read_value(std::string_view rest, bool last, std::string& out) {
  const char c = rest[0];
  const bool may_end = stage_ == Stage::kFirstValue || dialect_ == ValueDialect::kPython;
  if (may_end && closes(c) && frames_.back() == Frame::kList) return close(out);
  const bool follows = stage_ == Stage::kValue && !frames_.empty() && frames_.back() == Frame::kList;
  std::string value;
  std::size_t taken = 1;
  if (c == '{' || c == '[') {
    if (frames_.size() == kMostDepth) return fail();
    open(c == '[' ? Frame::kList : Frame::kObject, value);
  } else if (is_word_byte(c)) {
    taken = begin_word(Stage::kWord, rest, last, value);
  } else {
    taken = open_text(rest, last, value, false);
  }
  if (taken > 0 && follows && dialect_ != ValueDialect::kJson) out += ", ";
  out += value;
  return taken;
}

// A word that needs more is begun anew with it.
std::size_t ValueReader::begin_word(Stage as, std::string_view rest, bool last, std::string& out) {
  const Stage before = std::exchange(stage_, as);
  const std::size_t taken = read_word(rest, last, out);
  if (taken == 0 && stage_ == as) stage_ = before;
  return taken;
}

std::size_t ValueReader::read_key(std::string_view rest, bool last, std::string& out) {
  const char c = rest[0];
  const bool follows = stage_ == Stage::kKey;
  if ((!follows || dialect_ == ValueDialect::kPython) && closes(c)) return close(out);
  const bool bare = frames_.back() == Frame::kKeywords || (dialect_ == ValueDialect::kGemma && is_word_byte(c));
  std::string key;
  std::size_t taken = 0;
  if (bare) {
    taken = begin_word(Stage::kBareKey, rest, last, key);
  } else {
    taken = open_text(rest, last, key, true);
  }
  if (taken > 0 && follows && dialect_ != ValueDialect::kJson) out += ", ";
  out += key;
  return taken;
}

std::size_t ValueReader::open_text(std::string_view rest, bool last, std::string& out, bool is_key) {
  const char c = rest[0];
  const bool quoted = c == '"' || (c == '\'' && dialect_ == ValueDialect::kPython);
  if (!quoted) {
    if (dialect_ != ValueDialect::kGemma) return fail();
    if (!rest.starts_with(kGemmaQuote)) return !last && kGemmaQuote.starts_with(rest) ? 0 : fail();
  }
  quote_ = quoted ? std::string(1, c) : std::string(kGemmaQuote);
  stage_ = Stage::kText;
  is_key_ = is_key;
  out += '"';
  return quote_.size();
}

void append_json_text(std::string_view text, std::string& out) {
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      append_hexadecimal(static_cast<unsigned char>(c), out);
    } else {
      out += c;
    }
  }
}

std::size_t ValueReader::read_text(std::string_view rest, bool last, std::string& out) {
  const char c = rest[0];
  if (rest.starts_with(quote_)) {
    if (high_ != 0) return fail();
    out += '"';
    if (is_key_) {
      stage_ = Stage::kColon;
    } else {
      end_value();
    }
    return quote_.size();
  }
  if (!last && std::string_view(quote_).starts_with(rest)) return 0;
  if (c == '\\' && quote_ != kGemmaQuote) return read_escape(rest, last, out);
  if (high_ != 0) return fail();
  if (static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\') {
    append_json_text({&c, 1}, out);
    return 1;
  }
  const auto* const end = std::find_if(rest.begin() + 1, rest.end(), may_mean_something);
  const auto taken = static_cast<std::size_t>(end - rest.begin());
  out += rest.substr(0, taken);
  return taken;
}

// An escape, JSON's own as it stands.
std::size_t ValueReader::read_escape(std::string_view rest, bool last, std::string& out) {
  if (rest.size() < 2) return last ? fail() : 0;
  const char c = rest[1];
  const bool python = dialect_ == ValueDialect::kPython;
  const std::size_t digits = c == 'u' ? 4 : c == 'U' && python ? 8 : c == 'x' && python ? 2 : 0;
  if (digits == 0 && high_ != 0) return fail();
  if (digits > 0) {
    const std::string_view spelled = rest.substr(2, digits);
    if (!std::all_of(spelled.begin(), spelled.end(), [](char d) { return hexadecimal({&d, 1}).has_value(); }))
      return fail();
    if (spelled.size() < digits) return last ? fail() : 0;
    const char32_t value = *hexadecimal(spelled);
    const bool is_low = value >= 0xDC00 && value < 0xE000;
    if (value > 0x10FFFF || is_low != (high_ != 0)) return fail();
    if (digits == 8 && value >= 0xD800 && value < 0xE000) return fail();
    // Two halves go out together, so that what is out is JSON that spells whole characters.
    if (value >= 0xD800 && value < 0xDC00) {
      high_ = value;
    } else if (is_low) {
      append_hexadecimal(std::exchange(high_, 0), out);
      append_hexadecimal(value, out);
    } else if (digits == 4) {
      out += rest.substr(0, 6);
    } else {
      std::string spelled_out;
      append_utf8(value, spelled_out);
      append_json_text(spelled_out, out);
    }
    return 2 + digits;
  }
  constexpr std::string_view same = "\"\\/bfnrt";
  if (same.find(c) != same.npos && !(python && c == '/')) {
    out += rest.substr(0, 2);
    return 2;
  }
  if (!python) return fail();
  if (c == '\'') {
    out += '\'';
  } else {  // Python leaves a backslash that means nothing
    out += "\\\\";
    return 1;
  }
  return 2;
}

// Numbers, true and the like, and bare keys: known when what follows is there.
std::size_t ValueReader::read_word(std::string_view rest, bool last, std::string& out) {
  const bool is_key = stage_ == Stage::kBareKey;
  const auto end = std::find_if_not(rest.begin(), rest.end(), is_word_byte);
  const auto size = static_cast<std::size_t>(end - rest.begin());
  if (size == 0 || size > kMostWord) return fail();
  if (size == rest.size() && !last) return 0;
  const std::string_view word = rest.substr(0, size);
  if (is_key) {
    out += '"';
    out += word;
    out += '"';
    stage_ = Stage::kColon;
    return size;
  }
  const std::string_view spelled = json_word(word, dialect_);
  if (spelled.empty()) return fail();
  out += spelled;
  end_value();
  return size;
}

}  // namespace metal_marlin

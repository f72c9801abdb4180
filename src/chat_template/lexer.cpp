#include "chat_template/lexer.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"

namespace metal_marlin::jinja {
namespace {

constexpr std::size_t npos = std::string_view::npos;

std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_digit_of(char c, int base) {
  const char small = static_cast<char>(c | 0x20);
  if (base == 16 && small >= 'a' && small <= 'f') return true;
  return c >= '0' && c < '0' + std::min(base, 10);
}

// \w of Python.
bool is_word(char32_t c) {
  return c == U'_' || is_letter(c) || is_numeric(c);
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)) {}

  std::vector<LexedToken> run() {
    while (at_ < text_.size()) {
      const std::size_t tag = find_tag();
      const std::string_view data = std::string_view(text_).substr(at_, tag - at_);
      if (tag == npos) {
        add_data(data);
        break;
      }
      open_tag(tag, data);
    }
    add(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void wrong(const std::string& message) const { throw Failure(FailureKind::kSyntax, message, line_); }
  [[nodiscard]] std::string_view rest() const { return std::string_view(text_).substr(at_); }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  void advance(std::size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    if (end > at_) line_starting_ = text_[end - 1] == '\n';
    at_ = end;
  }

  LexedToken& add(TokenKind kind, std::string_view text = {}) {
    tokens_.push_back({kind, line_, std::string(text), {}});
    return tokens_.back();
  }

  void add_data(std::string_view data) {
    if (!data.empty()) add(TokenKind::kData, data);
  }

  [[nodiscard]] std::size_t find_tag() const {
    for (std::size_t i = text_.find('{', at_); i != npos; i = text_.find('{', i + 1)) {
      if (i + 1 < text_.size() && (text_[i + 1] == '%' || text_[i + 1] == '{' || text_[i + 1] == '#')) return i;
    }
    return npos;
  }

  std::size_t skip_space(std::size_t from) const {
    while (from < text_.size()) {
      std::size_t next = from;
      if (!is_space(next_character(text_, next))) break;
      from = next;
    }
    return from;
  }

  // Data before a tag with the sign '-', '+' or none.
  [[nodiscard]] std::string_view trimmed(std::string_view data, char sign, bool variable) const {
    if (sign == '-') return strip(data, kRight);
    if (sign == '+' || variable) return data;
    const std::size_t newline = data.rfind('\n');
    const std::size_t begin = newline == npos ? 0 : newline + 1;
    const bool whole_line = newline != npos || line_starting_;
    return whole_line && strip(data.substr(begin)).empty() ? data.substr(0, begin) : data;
  }

  // The end of a tag's end at `at`, with what it takes of the white space after it; npos: it is none.
  [[nodiscard]] std::size_t tag_end(std::size_t at, std::string_view end, bool block) const {
    const std::string_view text = text_;
    const bool minus = text.substr(at).starts_with('-');
    const bool plus = block && text.substr(at).starts_with('+');
    const std::size_t begin = at + static_cast<std::size_t>(minus || plus);
    if (!text.substr(begin).starts_with(end)) return npos;
    const std::size_t after = begin + end.size();
    if (minus) return skip_space(after);
    return block && !plus && after < text.size() && text[after] == '\n' ? after + 1 : after;
  }

  void open_tag(std::size_t tag, std::string_view data) {
    const char type = text_[tag + 1];
    if (type == '%' && open_raw(tag, data)) return;
    const char next = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    add_data(trimmed(data, sign, type == '{'));
    advance(tag);
    const int line = line_;
    advance(tag + 2 + static_cast<std::size_t>(sign != '\0'));
    if (type == '#') {
      close_comment();
    } else {
      const bool block = type == '%';
      tokens_.push_back({block ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, line, {}, {}});
      inside(block);
    }
  }

  void close_comment() {
    for (std::size_t i = at_; i < text_.size(); ++i) {
      if (text_[i] != '#' && text_[i] != '-' && text_[i] != '+') continue;
      const std::size_t end = tag_end(i, "#}", true);
      if (end == npos) continue;
      advance(end);
      return;
    }
    wrong("Missing end of comment tag");
  }

  // {% raw %} up to {% endraw %}; whether it was there.
  bool open_raw(std::size_t tag, std::string_view data) {
    std::size_t at = tag + 2;
    const char sign = at < text_.size() && (text_[at] == '-' || text_[at] == '+') ? text_[at++] : '\0';
    at = skip_space(at);
    if (!std::string_view(text_).substr(at).starts_with("raw")) return false;
    at = skip_space(at + 3);
    const bool minus = at < text_.size() && text_[at] == '-';
    if (!std::string_view(text_).substr(at + static_cast<std::size_t>(minus)).starts_with("%}")) return false;
    at += 2 + static_cast<std::size_t>(minus);
    if (minus) at = skip_space(at);
    add_data(trimmed(data, sign, false));
    advance(at);
    close_raw();
    return true;
  }

  void close_raw() {
    for (std::size_t tag = text_.find("{%", at_); tag != npos; tag = text_.find("{%", tag + 1)) {
      std::size_t at = tag + 2;
      const char sign = at < text_.size() && (text_[at] == '-' || text_[at] == '+') ? text_[at++] : '\0';
      at = skip_space(at);
      if (!std::string_view(text_).substr(at).starts_with("endraw")) continue;
      const std::size_t end = tag_end(skip_space(at + 6), "%}", true);
      if (end == npos) continue;
      add_data(trimmed(std::string_view(text_).substr(at_, tag - at_), sign, false));
      advance(end);
      return;
    }
    wrong("Missing end of raw directive");
  }

  void inside(bool block) {
    std::string open;  // the brackets that are to be closed
    while (at_ < text_.size()) {
      const std::size_t end = open.empty() ? tag_end(at_, block ? "%}" : "}}", block) : npos;
      if (end != npos) {
        add(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd);
        advance(end);
        return;
      }
      std::size_t next = at_;
      const char32_t c = next_character(text_, next);
      if (is_space(c)) {
        advance(skip_space(at_));
      } else if (c >= U'0' && c <= U'9') {
        lex_number();
      } else if (is_word(c)) {
        lex_name();
      } else if (c == U'\'' || c == U'"') {
        lex_string();
      } else {
        lex_operator(open);
      }
    }
  }

  // The end of digits that may have a _ between them, from `from`; `from`: there are none.
  [[nodiscard]] std::size_t digits_end(std::size_t from, int base = 10) const {
    std::size_t end = from;
    while (end < text_.size()) {
      const bool joined = text_[end] == '_' && end > from && end + 1 < text_.size();
      const std::size_t digit = joined ? end + 1 : end;
      if (!is_digit_of(text_[digit], base)) break;
      end = digit + 1;
    }
    return end;
  }

  static std::string without_joints(std::string_view text) {
    std::string out(text);
    std::erase(out, '_');
    return out;
  }

  bool lex_float() {
    if (at_ > 0 && text_[at_ - 1] == '.') return false;
    std::size_t end = digits_end(at_);
    bool is_float = false;
    if (end < text_.size() && text_[end] == '.' && digits_end(end + 1) > end + 1) {
      end = digits_end(end + 1);
      is_float = true;
    }
    if (end < text_.size() && (text_[end] | 0x20) == 'e') {
      const std::size_t sign = end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-') ? 1 : 0;
      const std::size_t exponent = digits_end(end + 1 + sign);
      if (exponent > end + 1 + sign) {
        end = exponent;
        is_float = true;
      }
    }
    if (!is_float) return false;
    const std::string number = without_joints(std::string_view(text_).substr(at_, end - at_));
    add(TokenKind::kFloat).number = std::strtod(number.c_str(), nullptr);
    advance(end);
    return true;
  }

  void lex_number() {
    if (lex_float()) return;
    const char mark = static_cast<char>(peek(1) | 0x20);
    int base = peek() != '0' ? 10 : mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    std::size_t begin = at_;
    std::size_t end = at_;
    if (base == 16 || base == 8 || base == 2) {
      begin += peek(2) == '_' ? 3 : 2;
      end = digits_end(begin, base);
      if (end == begin) base = 0;
    }
    if (base == 10) end = digits_end(at_);
    if (base == 0) {  // zeros alone
      begin = at_;
      end = digits_end(at_, 1);
    }
    const std::string digits = without_joints(std::string_view(text_).substr(begin, end - begin));
    std::int64_t value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base == 0 ? 10 : base);
    if (result.ec != std::errc()) {
      throw Failure(FailureKind::kUnsupported, fmt::format("the integer {} is beyond 64 bits", digits), line_);
    }
    add(TokenKind::kInteger).number = value;
    advance(end);
  }

  void lex_name() {
    std::size_t end = at_;
    bool identifier = true;
    while (end < text_.size()) {
      std::size_t next = end;
      const char32_t c = next_character(text_, next);
      if (!is_word(c)) break;
      identifier = identifier && (end == at_ ? is_identifier_start(c) : is_identifier_part(c));
      end = next;
    }
    if (!identifier) wrong("Invalid character in identifier");
    add(TokenKind::kName, std::string_view(text_).substr(at_, end - at_));
    advance(end);
  }

  void lex_string() {
    const char quote = peek();
    std::size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) unexpected();
    add(TokenKind::kString, unescape(std::string_view(text_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
  }

  [[noreturn]] void unexpected() const {
    std::size_t next = at_;
    next_character(text_, next);
    wrong(fmt::format("unexpected char {} at {}", repr_text(std::string_view(text_).substr(at_, next - at_)),
                      count_characters(std::string_view(text_).substr(0, at_))));
  }

  // The character of digits of a base at `at`, which moves past them.
  char32_t escaped_code(std::string_view text, std::size_t& at, std::size_t digits, int base, const char* name) const {
    std::size_t end = at;
    while (end < text.size() && end < at + digits && is_digit_of(text[end], base)) ++end;
    if (base == 16 && end != at + digits) wrong(fmt::format("truncated {} escape", name));
    std::uint32_t code = 0;
    std::from_chars(text.data() + at, text.data() + end, code, base);
    at = end;
    if (code > 0x10FFFF) wrong("illegal Unicode character");
    if (code >= 0xD800 && code <= 0xDFFF) {
      throw Failure(FailureKind::kUnsupported, fmt::format("half of a surrogate pair, U+{:04X}", code), line_);
    }
    return code;
  }

  [[nodiscard]] std::string unescape(std::string_view text) const {
    static constexpr std::string_view kNames = "\\'\"abfnrtv";
    static constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      if (text[at] != '\\') {
        out += text[at++];
        continue;
      }
      const char c = text[++at];
      if (const std::size_t known = kNames.find(c); known != npos) {
        out += kValues[known];
        ++at;
      } else if (c == '\n') {
        ++at;
      } else if (c >= '0' && c <= '7') {
        append_utf8(escaped_code(text, at, 3, 8, ""), out);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        ++at;
        const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_utf8(escaped_code(text, at, digits, 16, c == 'x' ? "\\xXX" : c == 'u' ? "\\uXXXX" : "\\UXXXXXXXX"), out);
      } else if (c == 'N') {
        throw Failure(FailureKind::kUnsupported, "characters by name, \\N{...}", line_);
      } else {
        append_unknown(text, at, out);
      }
    }
    return out;
  }

  // An escape that is none keeps its backslash; Python writes what is not ASCII as a code first.
  static void append_unknown(std::string_view text, std::size_t& at, std::string& out) {
    const auto code = static_cast<std::uint32_t>(next_character(text, at));
    out += '\\';
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else {
      out += code < 0x100     ? fmt::format("x{:02x}", code)
             : code < 0x10000 ? fmt::format("u{:04x}", code)
                              : fmt::format("U{:08x}", code);
    }
  }

  void lex_operator(std::string& open) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    const std::string_view text = rest();
    std::size_t size = 0;
    if (std::any_of(std::begin(kTwo), std::end(kTwo), [&](std::string_view two) { return text.starts_with(two); })) {
      size = 2;
    } else if (kOne.find(text.front()) != npos) {
      size = 1;
    }
    if (size == 0) unexpected();
    const char c = text.front();
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) wrong(fmt::format("unexpected '{}'", c));
      if (open.back() != c) wrong(fmt::format("unexpected '{}', expected '{}'", c, open.back()));
      open.pop_back();
    }
    add(TokenKind::kOperator, text.substr(0, size));
    advance(at_ + size);
  }

  std::string text_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<LexedToken> tokens_;
};

}  // namespace

std::vector<LexedToken> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace metal_marlin::jinja

#include "base/regex_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <vector>

#include "base/regex_class.h"
#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMaxDepth = 100;              // groups and classes within each other
constexpr std::int64_t kMaxRepeat = 65535;  // PCRE2's largest count

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string literal(char32_t c) {
  if (c < 0x80 && std::isalnum(static_cast<unsigned char>(c)) != 0) return {static_cast<char>(c)};
  return fmt::format(R"(\x{{{:x}}})", static_cast<std::uint32_t>(c));
}

// Characters whose case folding is several characters.
bool folds_to_many(char32_t low, char32_t high) {
  constexpr std::array<std::pair<char32_t, char32_t>, 12> kRanges{{{0xDF, 0xDF},
                                                                   {0x130, 0x130},
                                                                   {0x149, 0x149},
                                                                   {0x1F0, 0x1F0},
                                                                   {0x390, 0x390},
                                                                   {0x3B0, 0x3B0},
                                                                   {0x587, 0x587},
                                                                   {0x1E96, 0x1E9A},
                                                                   {0x1E9E, 0x1E9E},
                                                                   {0x1F50, 0x1F56},
                                                                   {0x1F80, 0x1FFC},
                                                                   {0xFB00, 0xFB17}}};
  return std::any_of(kRanges.begin(), kRanges.end(),
                     [&](const auto& range) { return low <= range.second && high >= range.first; });
}

// Whether some single character's folding begins with these two.
bool is_folding(char32_t left, char32_t right) {
  constexpr std::array<std::u32string_view, 5> kPairs{U"ss", U"ff", U"fi", U"fl", U"st"};
  for (const auto& pair : kPairs) {
    if (pair[0] == left && pair[1] == right) return true;
  }
  return left != 0 && (right == 0x2BE || (right >= 0x300 && right <= 0x345) || right == 0x3B9 ||
                       (left >= 0x561 && left <= 0x587 && right >= 0x561 && right <= 0x587));
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {
    for (std::size_t i = pattern.find("(?<"); i != std::string_view::npos; i = pattern.find("(?<", i + 1)) {
      const char next = i + 3 < pattern.size() ? pattern[i + 3] : '=';
      named_groups_ = named_groups_ || (next != '=' && next != '!');
    }
  }

  std::string run() {
    alternatives(0);
    if (!at_end()) refuse("an unmatched ')'");
    return std::move(out_);
  }

 private:
  struct Options {
    bool ignore_case = false;
    bool extended = false;
    bool dot_all = false;
  };

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: pattern '{}': {} is not supported (at {})", where_, pattern_, what, at_));
  }
  [[nodiscard]] bool at_end() const { return at_ >= pattern_.size(); }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  [[nodiscard]] bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }
  char32_t take_character() {
    if (at_end()) refuse("an end in the middle");
    return next_character(pattern_, at_);
  }

  void alternatives(int depth);
  bool skip_comment();
  void atom(int depth);
  void group(int depth);
  void special_group(int depth);
  void options_group(int depth);
  void group_body(const std::string& open, int depth);
  void quantifiers(std::size_t begin);
  std::optional<std::string> interval();
  void escape();
  void backreference();
  void named_backreference();
  bool code_escape(char letter, char32_t& code);
  char32_t hex_code(std::size_t most, std::size_t least);
  CharacterSet property(char letter, bool in_brackets);
  CharacterSet character_class(int depth, bool nested = false);
  void class_item(CharacterSet& set, int depth);
  bool class_escape(CharacterSet& set, char32_t& code);
  void class_range(CharacterSet& set, char32_t low);
  bool posix_bracket(CharacterSet& set);
  void emit(char32_t c);
  void emit_expression(const std::string& text) {
    out_ += text;
    previous_ = 0;
  }

  std::string_view pattern_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::string out_;
  Options options_;
  bool named_groups_ = false;
  int groups_ = 0;
  char32_t previous_ = 0;  // the literal before this place under (?i)
};

void Translator::emit(char32_t c) {
  if (options_.ignore_case) {
    const char32_t folded = lowercase_character(c);
    if (folds_to_many(c, c) || is_folding(previous_, folded)) refuse("a character that folds to several under (?i)");
    previous_ = folded;
  }
  out_ += literal(c);
}

// White space and comments of the extended mode, and (?#...).
bool Translator::skip_comment() {
  if (take("(?#")) {
    while (!at_end() && peek() != ')') at_ += peek() == '\\' ? 2 : 1;
    if (!take(")")) refuse("a comment without an end");
    return true;
  }
  if (!options_.extended) return false;
  if (peek() == '#') {
    while (!at_end() && peek() != '\n') ++at_;
    return true;
  }
  const bool space = !at_end() && std::string_view(" \t\n\r\f\v").find(peek()) != std::string_view::npos;
  at_ += space ? 1 : 0;
  return space;
}

// Up to the end or a ')', which is left. Options that are set within hold up to there, other alternatives included.
void Translator::alternatives(int depth) {
  if (depth > kMaxDepth) refuse(fmt::format("nesting deeper than {}", kMaxDepth));
  while (!at_end() && peek() != ')') {
    if (skip_comment()) continue;
    if (take("|")) {
      emit_expression("|");
      continue;
    }
    const std::size_t begin = out_.size();
    atom(depth);
    quantifiers(begin);
  }
}

void Translator::atom(int depth) {
  const char c = peek();
  if (c == '(') return group(depth);
  if (c == '\\') return escape();
  if (take("[")) return emit_expression(character_class(depth + 1).expression());
  if (take("^")) return emit_expression("^");
  if (take("$")) return emit_expression("$");
  if (take(".")) return emit_expression(options_.dot_all ? "(?s:.)" : "\\N");
  if (c == '*' || c == '+' || c == '?') refuse("a repetition of nothing");
  emit(take_character());
}

void Translator::group_body(const std::string& open, int depth) {
  const Options outer = options_;
  emit_expression(open);
  alternatives(depth + 1);
  if (!take(")")) refuse("a group without an end");
  emit_expression(")");
  options_ = outer;
}

void Translator::group(int depth) {
  if (next_is("(?")) return special_group(depth);
  ++at_;
  ++groups_;
  group_body(named_groups_ ? "(?:" : "(", depth);
}

void Translator::special_group(int depth) {
  for (const char* const open : {"(?:", "(?>", "(?=", "(?!", "(?<=", "(?<!"}) {
    if (take(open)) return group_body(open, depth);
  }
  if (next_is("(?<") || next_is("(?P<")) {
    at_ += next_is("(?<") ? 3 : 4;
    const std::size_t end = pattern_.find('>', at_);
    const std::string_view name = pattern_.substr(at_, end == std::string_view::npos ? end : end - at_);
    const bool plain =
        !name.empty() && name.size() <= 32 && !is_digit(name[0]) &&
        std::all_of(name.begin(), name.end(), [](unsigned char c) { return c == '_' || std::isalnum(c); });
    if (end == std::string_view::npos || !plain) refuse("a group name that is not of letters, digits and '_'");
    at_ = end + 1;
    return group_body(fmt::format("(?<{}>", name), depth);
  }
  if (next_is("(?~")) refuse("an absent operator (?~");
  if (next_is("(?(")) refuse("a condition (?(");
  options_group(depth);
}

// (?i), which holds up to the end of the group around it, and (?i:...).
void Translator::options_group(int depth) {
  at_ += 2;
  Options options = options_;
  bool on = true;
  for (; !at_end() && peek() != ')' && peek() != ':'; ++at_) {
    const char c = peek();
    if (c == '-') {
      on = false;
    } else if (c == 'i') {
      options.ignore_case = on;
    } else if (c == 'm') {
      options.dot_all = on;
    } else if (c == 'x') {
      options.extended = on;
    } else {
      refuse(fmt::format("the group (?{}", literal(static_cast<unsigned char>(c))));
    }
  }
  const std::string open = options.ignore_case ? "(?i:" : "(?-i:";
  const Options outer = options_;
  options_ = options;
  if (take(":")) {
    group_body(open, depth);
  } else if (take(")")) {
    emit_expression(open);
    alternatives(depth + 1);
    emit_expression(")");
  } else {
    refuse("options without an end");
  }
  options_ = outer;
}

// {n}, {n,}, {,m} or {n,m}; nothing where a brace stands for itself.
std::optional<std::string> Translator::interval() {
  std::size_t at = at_ + 1;
  const auto number = [&]() -> std::optional<std::int64_t> {
    const std::size_t begin = at;
    std::int64_t value = 0;
    for (; at < pattern_.size() && is_digit(pattern_[at]); ++at) {
      value = std::min<std::int64_t>(value * 10 + (pattern_[at] - '0'), kMaxRepeat + 1);
    }
    if (at == begin) return std::nullopt;
    return value;
  };
  const auto low = number();
  const bool comma = at < pattern_.size() && pattern_[at] == ',';
  at += comma ? 1 : 0;
  const auto high = comma ? number() : low;
  if (at >= pattern_.size() || pattern_[at] != '}' || (!low && !high)) return std::nullopt;
  if (std::max(low.value_or(0), high.value_or(0)) > kMaxRepeat) refuse(fmt::format("a count above {}", kMaxRepeat));
  if (high && *high < low.value_or(0)) refuse("an interval whose end is below its start");
  at_ = at + 1;
  if (!comma) return fmt::format("{{{}}}", *low);
  return high ? fmt::format("{{{},{}}}", low.value_or(0), *high) : fmt::format("{{{},}}", *low);
}

// One after another they repeat what stands before, as PCRE2 says with groups only.
void Translator::quantifiers(std::size_t begin) {
  for (bool repeated = false;; repeated = true) {
    while (skip_comment()) continue;
    std::string quantifier;
    const char c = peek();
    if (at_end()) return;
    if (c == '*' || c == '+' || c == '?') {
      ++at_;
      quantifier = c;
      if (peek() == '?' || peek() == '+') quantifier += pattern_[at_++];
    } else if (c == '{') {
      const auto found = interval();
      if (!found) return;
      quantifier = *found;
      // Oniguruma leaves such a loop at its first empty turn, PCRE2 goes on to the count.
      const bool loop = quantifier.ends_with(",}") && !quantifier.starts_with("{0") && !quantifier.starts_with("{1,");
      if (loop && out_.back() == ')' && pcre2_may_match_nothing(std::string_view(out_).substr(begin)))
        refuse("a group that may be empty, twice and more");
      // A lazy {n} is an optional one instead, which the next turn writes.
      if (quantifier.find(',') != std::string::npos && take("?")) quantifier += '?';
    } else {
      return;
    }
    if (begin == out_.size()) refuse("a repetition of nothing");
    if (repeated) out_ = fmt::format("{}(?:{})", out_.substr(0, begin), out_.substr(begin));
    emit_expression(quantifier);
  }
}

char32_t Translator::hex_code(std::size_t most, std::size_t least) {
  char32_t code = 0;
  std::size_t count = 0;
  for (; count < most && std::isxdigit(static_cast<unsigned char>(peek())) != 0; ++count) {
    const char c = static_cast<char>(std::tolower(pattern_[at_++]));
    code = code * 16 + static_cast<char32_t>(is_digit(c) ? c - '0' : c - 'a' + 10);
  }
  if (count < least) refuse("an escape with too few digits");
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) refuse("a code that is no character");
  return code;
}

// Escapes that stand for one character; at_ is behind the letter.
bool Translator::code_escape(char letter, char32_t& code) {
  constexpr std::string_view kLetters = "tnrfvae";
  constexpr std::string_view kCodes = "\t\n\r\f\v\a\x1b";
  const std::size_t index = kLetters.find(letter);
  if (index != std::string_view::npos) {
    code = static_cast<unsigned char>(kCodes[index]);
  } else if ((letter == 'x' || letter == 'u') && take("{")) {
    code = hex_code(8, 1);
    if (!take("}")) refuse("an escape without a '}'");
  } else if (letter == 'x') {
    code = hex_code(2, 1);
    if (code > 0x7F) refuse("a byte of a character (\\xHH above 7f)");
  } else if (letter == 'u') {
    code = hex_code(4, 4);
  } else if (letter == '0') {
    code = 0;
    for (int i = 0; i < 2 && peek() >= '0' && peek() <= '7'; ++i) {
      code = code * 8 + static_cast<char32_t>(pattern_[at_++] - '0');
    }
  } else if (letter == 'c' || letter == 'C') {
    if (letter == 'C' && !take("-")) refuse("\\C without '-'");
    const char32_t c = take_character();
    if (c >= 0x80 || c == '\\') refuse("a control character of that name");
    code = c == '?' ? 0x7F : c & 0x1F;
  } else {
    return false;
  }
  return true;
}

CharacterSet Translator::property(char letter, bool in_brackets) {
  if (!take("{")) refuse(fmt::format("\\{} without '{{'", letter));
  const std::size_t end = pattern_.find('}', at_);
  if (end == std::string_view::npos) refuse("a property without a '}'");
  bool negated = letter == 'P';
  if (take("^")) negated = !negated;
  const std::string_view name = pattern_.substr(at_, end - at_);
  CharacterSet set;
  if (!property_set(name, set)) refuse(fmt::format("the property {}", name));
  at_ = end + 1;
  set.negated = set.negated != negated;
  return in_brackets && options_.ignore_case ? without_case(std::move(set)) : set;
}

void Translator::named_backreference() {
  const char close = take("<") ? '>' : '\'';
  if (close == '\'' && !take("'")) refuse("\\k without a name");
  const std::size_t end = pattern_.find(close, at_);
  if (end == std::string_view::npos) refuse("\\k without an end");
  const std::string_view name = pattern_.substr(at_, end - at_);
  const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) { return c == '_' || std::isalnum(c); });
  if (!plain || name.empty()) refuse(fmt::format("the back reference {}", name));
  at_ = end + 1;
  emit_expression(fmt::format("\\{}{{{}}}", is_digit(name[0]) ? 'g' : 'k', name));
}

void Translator::backreference() {
  const std::size_t begin = at_ - 1;
  while (is_digit(peek())) ++at_;
  if (named_groups_ || at_ - begin > 2) refuse("a numbered back reference of that kind");
  emit_expression(fmt::format(R"(\g{{{}}})", pattern_.substr(begin, at_ - begin)));
}

void Translator::escape() {
  ++at_;
  const char32_t whole = take_character();
  if (whole >= 0x80) return emit(whole);
  const char c = static_cast<char>(whole);
  const std::string word = shorthand_set('w', false).items;
  switch (c) {
    case 'd':
    case 'D':
    case 's':
    case 'S':
    case 'h':
    case 'H':
    case 'w':
    case 'W': return emit_expression(shorthand_set(c, false).expression());
    case 'p':
    case 'P': return emit_expression(property(c, false).expression());
    case 'b': return emit_expression(fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", word));
    case 'B': return emit_expression(fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", word));
    case 'Z':
      if (out_.empty() && !at_end())
        refuse("\\Z before more of a pattern");  // where Oniguruma searches at the end alone
      return emit_expression("\\Z");
    case 'A':
    case 'z':
    case 'G':
    case 'K':
    case 'X':
    case 'N': return emit_expression(fmt::format("\\{}", c));
    case 'O': return emit_expression("(?s:.)");
    case 'R': return emit_expression(R"((?>\r\n|[\n-\r\x{85}\x{2028}\x{2029}]))");
    case 'k': return named_backreference();
    case 'g':
    case 'y':
    case 'Y':
    case 'M': refuse(fmt::format("\\{}", c));
    default: break;
  }
  if (c >= '1' && c <= '9') return backreference();
  char32_t code = whole;
  code_escape(c, code);
  emit(code);
}

bool Translator::posix_bracket(CharacterSet& set) {
  if (!next_is("[:")) return false;
  const std::size_t end = pattern_.find(":]", at_ + 2);
  if (end == std::string_view::npos) return false;
  std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
  const bool negated = name.starts_with('^');
  if (negated) name.remove_prefix(1);
  CharacterSet named;
  if (!posix_set(name, named)) return false;
  at_ = end + 2;
  named.negated = named.negated != negated;
  set.unite(options_.ignore_case ? without_case(std::move(named)) : named);
  return true;
}

// An escape within brackets: adds a set, or gives a character.
bool Translator::class_escape(CharacterSet& set, char32_t& code) {
  ++at_;
  code = take_character();
  if (code >= 0x80) return true;
  const char c = static_cast<char>(code);
  if (std::string_view("dDsShHwW").find(c) != std::string_view::npos) {
    set.unite(shorthand_set(c, true));
    return false;
  }
  if (c == 'p' || c == 'P') {
    set.unite(property(c, true));
    return false;
  }
  if (c == 'b') {
    code = 8;
  } else if (c >= '1' && c <= '7') {
    code = static_cast<char32_t>(c - '0');
    while (peek() >= '0' && peek() <= '7') code = code * 8 + static_cast<char32_t>(pattern_[at_++] - '0');
    if (code > 0x7F) refuse("an octal code above 177");
  } else if (c == 'M') {
    refuse("\\M");
  } else {
    code_escape(c, code);
  }
  return true;
}

// A character, or a range that begins with it.
void Translator::class_range(CharacterSet& set, char32_t low) {
  char32_t high = low;
  const bool range = peek() == '-' && peek(1) != ']' && peek(1) != '\0' && peek(1) != '[' &&
                     !pattern_.substr(at_ + 1).starts_with("&&");
  if (range) {
    const std::size_t dash = at_++;
    CharacterSet after;
    const bool single = peek() == '\\' ? class_escape(after, high) : (high = take_character(), true);
    if (!single) {  // [a-\d] holds the dash itself
      at_ = dash;
      high = low;
    }
  }
  if (high < low) refuse("a range whose end is below its start");
  if (options_.ignore_case && folds_to_many(low, high)) refuse("a character that folds to several under (?i)");
  set.cased =
      set.cased || high != low || (low < 0x80 ? std::isalpha(static_cast<int>(low)) != 0 : is_word_character(low));
  set.items += literal(low);
  if (high != low) set.items.append("-").append(literal(high));
  // A dash behind a range stands for itself.
  if (high != low && peek() == '-' && peek(1) != ']') {
    ++at_;
    set.items += "\\-";
  }
}

void Translator::class_item(CharacterSet& set, int depth) {
  if (posix_bracket(set)) return;
  if (take("[")) return set.unite(character_class(depth + 1, true));
  char32_t code = 0;
  if (peek() != '\\') {
    code = take_character();
  } else if (!class_escape(set, code)) {
    if (peek() == '-' && peek(1) != ']' && peek(1) != '[') {  // [\d-z] holds the dash itself
      ++at_;
      set.items += "\\-";
    }
    return;
  }
  class_range(set, code);
}

// Behind the '['. Intersections bind less than everything else. Under (?i) a whole class gets the other cases of its
// letters at the end: PCRE2 gives them to each part, which is the same for all sets but the two that are refused.
CharacterSet Translator::character_class(int depth, bool nested) {
  if (depth > kMaxDepth) refuse(fmt::format("nesting deeper than {}", kMaxDepth));
  const bool negated = take("^");
  std::string required;  // lookaheads for all but the last part of an intersection
  int cased_parts = 0;
  CharacterSet set;
  if (peek() == ']' && pattern_.find(']', at_ + 1) != std::string_view::npos) class_item(set, depth);
  while (peek() != ']') {
    if (at_end()) refuse("a class without an end");
    if (take("&&")) {
      required += fmt::format("(?={})", set.expression());
      cased_parts += set.cased ? 1 : 0;
      set = {};
    } else {
      class_item(set, depth);
    }
  }
  ++at_;
  cased_parts += set.cased ? 1 : 0;
  if (options_.ignore_case && cased_parts > 1) refuse("an intersection of classes with letters under (?i)");
  if (options_.ignore_case && cased_parts > 0 && nested && negated) refuse("a negated class in another under (?i)");
  if (!required.empty()) set = {"", {fmt::format("(?:{}{})", required, set.expression())}, false};
  set.negated = negated;
  set.cased = cased_parts > 0;
  return set;
}

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& where) {
  if (!is_valid_utf8(pattern)) throw Error(ErrorCode::kUnsupported, where + ": a pattern that is not UTF-8");
  return Translator(pattern, where).run();
}

}  // namespace metal_marlin

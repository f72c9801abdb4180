#include "grammar/pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMostGroups = 200;  // in each other

const Characters& line_terminators() {
  static const Characters out{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
  return out;
}

// \d, \w and \s.
Characters shorthand(char letter) {
  switch (letter) {
    case 'd': return {{'0', '9'}};
    case 'w': return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    default: break;
  }
  return {{0x09, 0x0D},     {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
          {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
}

class PatternParser {
 public:
  PatternParser(Rules& rules, std::string_view pattern, const std::string& where, const PatternOptions& options)
      : rules_(rules), pattern_(pattern), where_(where), options_(options) {}

  ExpressionId run() {
    if (!is_valid_utf8(pattern_)) refuse("text that is not UTF-8");
    std::vector<ExpressionId> out;
    do {
      out.push_back(whole());
    } while (take("|"));
    if (!at_end()) refuse("an unmatched ')'");
    return rules_.any_of(std::move(out));
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: pattern '{}': {} cannot be used here (at {})", where_, pattern_, what, at_));
  }
  [[nodiscard]] bool at_end() const { return at_ >= pattern_.size(); }
  [[nodiscard]] char peek() const { return at_end() ? '\0' : pattern_[at_]; }
  [[nodiscard]] bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }
  ExpressionId characters(const Characters& set) {
    return options_.spell ? options_.spell(set) : rules_.characters(set);
  }
  ExpressionId anything() { return rules_.repeat(characters(Characters::all()), 0, std::nullopt); }

  // One of the alternatives that are in no group: there alone ^ and $ may be.
  ExpressionId whole() {
    const bool begins = take("^");
    const ExpressionId middle = sequence(0);
    const bool ends = take("$");
    if (ends && !at_end() && peek() != '|' && peek() != ')') refuse("$ before more of a pattern");
    if (!options_.search || (begins && ends)) return middle;
    std::vector<ExpressionId> out;
    if (!begins) out.push_back(anything());
    out.push_back(middle);
    if (!ends) out.push_back(anything());
    return rules_.sequence(std::move(out));
  }

  ExpressionId alternatives(int depth) {
    if (depth > kMostGroups) refuse(fmt::format("more than {} groups in each other", kMostGroups));
    std::vector<ExpressionId> out{sequence(depth)};
    while (take("|")) out.push_back(sequence(depth));
    return rules_.any_of(std::move(out));
  }

  ExpressionId sequence(int depth) {
    std::vector<ExpressionId> out;
    while (!at_end() && peek() != '|' && peek() != ')') {
      if (peek() == '$' && depth == 0) break;
      if (peek() == '$' || peek() == '^') refuse("an anchor that is neither at the beginning nor at the end");
      out.push_back(quantified(atom(depth)));
    }
    return rules_.sequence(std::move(out));
  }

  ExpressionId atom(int depth) {
    if (take("(")) return group(depth);
    if (take("[")) return characters(character_class());
    if (take(".")) return characters(line_terminators().complement());
    if (next_is("*") || next_is("+") || next_is("?")) refuse("a quantifier behind nothing");
    if (next_is("{") || next_is("}") || next_is("]")) refuse(fmt::format("a '{}' that is not escaped", peek()));
    if (!take("\\")) {
      const char32_t c = next_character(pattern_, at_);
      return characters({{c, c}});
    }
    return characters(escape(false));
  }

  ExpressionId group(int depth) {
    if (take("?")) {
      if (next_is("=") || next_is("!")) refuse("lookahead");
      if (next_is("<=") || next_is("<!")) refuse("lookbehind");
      if (take("<")) {
        while (!at_end() && peek() != '>') ++at_;
        if (!take(">")) refuse("a group's name without an end");
      } else if (next_is(">")) {
        refuse("an atomic group");
      } else if (!take(":")) {
        refuse("a group with options");
      }
    }
    const ExpressionId out = alternatives(depth + 1);
    if (!take(")")) refuse("a '(' without its ')'");
    return out;
  }

  int count() {
    int out = 0;
    const std::size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') {
      out = out * 10 + (pattern_[at_++] - '0');
      if (out > kMostRepeats) refuse(fmt::format("a repeat of more than {}", kMostRepeats));
    }
    if (begin == at_) refuse("a '{' that is not escaped and begins no repeat");
    return out;
  }

  ExpressionId quantified(ExpressionId what) {
    int least = 0;
    std::optional<int> most;
    if (take("?")) {
      most = 1;
    } else if (take("+")) {
      least = 1;
    } else if (take("{")) {
      most = least = count();
      if (take(",")) most = peek() == '}' ? std::nullopt : std::optional(count());
      if (!take("}")) refuse("a repeat without its '}'");
      if (most && *most < least) refuse(fmt::format("a repeat of {} to {}", least, *most));
    } else if (!take("*")) {
      return what;
    }
    if (next_is("?")) refuse("a lazy quantifier");
    if (next_is("+")) refuse("a possessive quantifier");
    if (next_is("*") || next_is("{")) refuse("a quantifier behind another");
    return rules_.repeat(what, least, most);
  }

  char32_t hex(int least, int most) {
    std::uint32_t out = 0;
    int digits = 0;
    for (; digits < most; ++digits, ++at_) {
      const char c = peek();
      const int value = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) break;
      out = out * 16 + static_cast<std::uint32_t>(value);
    }
    if (digits < least || out > 0x10FFFF) refuse("an escape of that code");
    return out;
  }

  char32_t unicode_escape() {
    if (take("{")) {
      const char32_t out = hex(1, 8);
      if (!take("}")) refuse("\\u{ without its '}'");
      return out;
    }
    const char32_t high = hex(4, 4);
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || !take("\\u")) refuse("half of a surrogate pair");
    const char32_t low = hex(4, 4);
    if (low < 0xDC00 || low > 0xDFFF) refuse("half of a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  // Behind the backslash.
  Characters escape(bool in_class) {
    if (at_end()) refuse("a '\\' at the end");
    const char32_t whole = next_character(pattern_, at_);
    const char c = whole < 0x80 ? static_cast<char>(whole) : '\0';
    char32_t code = whole;
    switch (c) {
      case 'd':
      case 'w':
      case 's': return shorthand(c);
      case 'D':
      case 'W':
      case 'S': return shorthand(static_cast<char>(c - 'A' + 'a')).complement();
      case 'n': code = '\n'; break;
      case 'r': code = '\r'; break;
      case 't': code = '\t'; break;
      case 'f': code = '\f'; break;
      case 'v': code = '\v'; break;
      case '0': code = 0; break;
      case 'x': code = hex(2, 2); break;
      case 'u': code = unicode_escape(); break;
      case 'b':
        if (!in_class) refuse("\\b, a word's boundary,");
        code = '\b';
        break;
      case 'B': refuse("\\B, a word's boundary,");
      case 'k': refuse("a backreference");
      case 'p':
      case 'P': refuse("a Unicode property");
      case 'c': {
        const char letter = peek();
        const bool is_letter = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
        if (!is_letter) refuse("\\c without a letter");
        ++at_;
        code = static_cast<char32_t>(letter & 0x1F);
        break;
      }
      default:
        if (c >= '1' && c <= '9') refuse("a backreference");
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) refuse(fmt::format("\\{}", c));
        break;
    }
    return {{code, code}};
  }

  // Behind the '['.
  Characters character_class() {
    const bool negated = take("^");
    Characters out;
    while (!take("]")) {
      if (at_end()) refuse("a class without an end");
      const Characters first = class_item();
      const bool is_range = peek() == '-' && !next_is("-]");
      if (!is_range) {
        out.unite(first);
        continue;
      }
      ++at_;
      if (at_end()) refuse("a class without an end");
      const Characters last = class_item();
      const auto is_one = [](const Characters& set) {
        return set.ranges().size() == 1 && set.ranges()[0].low == set.ranges()[0].high;
      };
      if (!is_one(first) || !is_one(last)) refuse("a range between sets");
      if (last.ranges()[0].low < first.ranges()[0].low) refuse("a range whose end is below its start");
      out.add({first.ranges()[0].low, last.ranges()[0].low});
    }
    return negated ? out.complement() : out;
  }

  Characters class_item() {
    if (take("\\")) return escape(true);
    const char32_t c = next_character(pattern_, at_);
    return {{c, c}};
  }

  Rules& rules_;
  std::string_view pattern_;
  const std::string& where_;
  const PatternOptions& options_;
  std::size_t at_ = 0;
};

}  // namespace

ExpressionId parse_pattern(Rules& rules, std::string_view pattern, const std::string& where,
                           const PatternOptions& options) {
  return PatternParser(rules, pattern, where, options).run();
}

}  // namespace metal_marlin

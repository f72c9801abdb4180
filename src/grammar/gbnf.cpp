#include "grammar/gbnf.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kMostNested = 200;

class GbnfParser {
 public:
  GbnfParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Rules run() {
    if (!is_valid_utf8(text_)) fail("text that is not UTF-8");
    skip_space(true);
    while (!at_end()) rule();
    const auto root = names_.find("root");
    if (root == names_.end()) fail("no rule of the name root");
    for (const auto& [name, rule] : names_) {
      if (!rules_.is_defined(rule)) fail(fmt::format("the rule {} is used and not defined", name));
    }
    rules_.set_root(root->second);
    return std::move(rules_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n');
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: line {}: {}", where_, line, what));
  }
  [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }
  [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[at_]; }
  bool take(std::string_view what) {
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  [[nodiscard]] std::string found() const {
    if (at_end()) return "the end";
    std::size_t end = at_;
    next_character(text_, end);
    return fmt::format("'{}'", peek() == '\n' ? "a line's end" : text_.substr(at_, end - at_));
  }
  void skip_space(bool lines) {
    for (;;) {
      const char c = peek();
      if (!at_end() && (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r')))) {
        ++at_;
      } else if (c == '#') {
        while (!at_end() && peek() != '\n') ++at_;
      } else {
        return;
      }
    }
  }

  static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  }
  std::string_view name() {
    const std::size_t begin = at_;
    while (!at_end() && is_name(peek())) ++at_;
    if (at_ == begin) fail(fmt::format("expected a rule's name, found {}", found()));
    return text_.substr(begin, at_ - begin);
  }
  RuleId rule_of(std::string_view name) {
    const auto known = names_.find(name);
    if (known != names_.end()) return known->second;
    const RuleId out = rules_.declare(std::string(name));
    names_.emplace(name, out);
    return out;
  }

  void rule() {
    const std::string_view of = name();
    const RuleId id = rule_of(of);
    skip_space(false);
    if (!take("::=")) fail(fmt::format("expected ::= behind {}, found {}", of, found()));
    if (rules_.is_defined(id)) fail(fmt::format("the rule {} is defined twice", of));
    skip_space(true);
    rules_.define(id, alternatives(0));
    if (!at_end() && peek() != '\n' && peek() != '\r')
      fail(fmt::format("expected the end of the rule {}, found {}", of, found()));
    skip_space(true);
  }

  // Whether another alternative follows: also in a later line, where a rule's name cannot be.
  bool take_bar() {
    const std::size_t begin = at_;
    skip_space(true);
    if (take("|")) return true;
    at_ = begin;
    return false;
  }

  ExpressionId alternatives(int depth) {
    if (depth > kMostNested) fail(fmt::format("more than {} groups in each other", kMostNested));
    std::vector<ExpressionId> out{sequence(depth)};
    while (take_bar()) {
      skip_space(true);
      out.push_back(sequence(depth));
    }
    return rules_.any_of(std::move(out));
  }

  ExpressionId sequence(int depth) {
    std::vector<ExpressionId> out;
    for (;;) {
      skip_space(depth > 0);
      const char c = peek();
      if (at_end() || c == '|' || c == ')' || c == '\n' || c == '\r') return rules_.sequence(std::move(out));
      ExpressionId item = element(depth);
      while (std::optional<ExpressionId> repeated = repetition(item)) item = *repeated;
      out.push_back(item);
    }
  }

  ExpressionId element(int depth) {
    if (take("\"")) return literal();
    if (take("[")) return character_class();
    if (take(".")) return rules_.characters(Characters::all());
    if (take("(")) {
      skip_space(true);
      const ExpressionId out = alternatives(depth + 1);
      skip_space(true);
      if (!take(")")) fail(fmt::format("expected ')', found {}", found()));
      return out;
    }
    if (peek() == '<' || peek() == '!') fail("tokens (<...>, !<...>) are not supported: rules are of characters");
    return rules_.call(rule_of(name()));
  }

  ExpressionId literal() {
    std::string out;
    while (!take("\"")) append_utf8(character("a literal"), out);
    return rules_.text(out);
  }

  ExpressionId character_class() {
    Characters out;
    const bool negated = take("^");
    while (!take("]")) {
      const char32_t low = character("a class");
      char32_t high = low;
      if (peek() == '-' && !text_.substr(at_).starts_with("-]")) {
        ++at_;
        high = character("a class");
      }
      if (high < low) fail("a range whose end is below its start");
      out.add({low, high});
    }
    return rules_.characters(negated ? out.complement() : out);
  }

  char32_t character(const char* of) {
    if (at_end()) fail(fmt::format("{} without an end", of));
    if (!take("\\")) return next_character(text_, at_);
    const char c = peek();
    if (at_end()) fail(fmt::format("{} without an end", of));
    ++at_;
    switch (c) {
      case 'n': return '\n';
      case 'r': return '\r';
      case 't': return '\t';
      case 'x': return code(2);
      case 'u': return code(4);
      case 'U': return code(8);
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^': return static_cast<char32_t>(c);
      default: break;
    }
    --at_;
    fail(fmt::format("an unknown escape, of {}", found()));
  }

  char32_t code(int digits) {
    std::uint32_t out = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = peek();
      const int value = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) fail(fmt::format("expected {} hexadecimal digits, found {}", digits, found()));
      out = out * 16 + static_cast<std::uint32_t>(value);
      ++at_;
    }
    if (out > 0x10FFFF || (out >= 0xD800 && out <= 0xDFFF)) fail(fmt::format("{:x} is no character", out));
    return out;
  }

  int count() {
    int out = 0;
    const std::size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') {
      out = out * 10 + (text_[at_++] - '0');
      if (out > kMostRepeats) fail(fmt::format("a repeat of more than {}", kMostRepeats));
    }
    if (begin == at_) fail(fmt::format("expected a number of repeats, found {}", found()));
    return out;
  }

  std::optional<ExpressionId> repetition(ExpressionId what) {
    if (take("?")) return rules_.repeat(what, 0, 1);
    if (take("*")) return rules_.repeat(what, 0, std::nullopt);
    if (take("+")) return rules_.repeat(what, 1, std::nullopt);
    if (!take("{")) return std::nullopt;
    skip_space(false);
    const int least = peek() == ',' ? 0 : count();
    std::optional<int> most = least;
    skip_space(false);
    if (take(",")) {
      skip_space(false);
      most.reset();
      if (peek() != '}') most = count();
      skip_space(false);
    }
    if (!take("}")) fail(fmt::format("expected '}}', found {}", found()));
    if (most && *most < least) fail(fmt::format("a repeat of {} to {}", least, *most));
    return rules_.repeat(what, least, most);
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
  Rules rules_;
  std::map<std::string, RuleId, std::less<>> names_;
};

}  // namespace

Rules parse_gbnf(std::string_view text, const std::string& where) {
  return GbnfParser(text, where).run();
}

}  // namespace metal_marlin

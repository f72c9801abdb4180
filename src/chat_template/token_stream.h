// The tokens of a template, one by one, with jinja2's words for what is wrong.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat_template/failure.h"
#include "chat_template/lexer.h"

namespace metal_marlin::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<LexedToken> tokens) : tokens_(std::move(tokens)) {}

  [[nodiscard]] const LexedToken& current() const { return tokens_[at_]; }
  [[nodiscard]] const LexedToken& look() const { return tokens_[at_ + (at_ + 1 < tokens_.size() ? 1 : 0)]; }
  LexedToken next() { return current().kind == TokenKind::kEnd ? current() : tokens_[at_++]; }

  [[nodiscard]] bool is(TokenKind kind) const { return current().kind == kind; }
  [[nodiscard]] bool is_name(std::string_view name) const { return is_name(current(), name); }
  static bool is_name(const LexedToken& token, std::string_view name) {
    return token.kind == TokenKind::kName && token.text == name;
  }
  [[nodiscard]] bool is_operator(std::string_view text) const { return is_operator(current(), text); }
  static bool is_operator(const LexedToken& token, std::string_view text) {
    return token.kind == TokenKind::kOperator && token.text == text;
  }
  bool skip_name(std::string_view name) {
    const bool there = is_name(name);
    at_ += static_cast<std::size_t>(there);
    return there;
  }
  bool skip_operator(std::string_view text) {
    const bool there = is_operator(text);
    at_ += static_cast<std::size_t>(there);
    return there;
  }
  LexedToken expect_name() { return expect(is(TokenKind::kName), "name"); }
  LexedToken expect_name(std::string_view name) { return expect(is_name(name), name); }
  LexedToken expect_operator(std::string_view text) { return expect(is_operator(text), text); }
  LexedToken expect_kind(TokenKind kind) { return expect(is(kind), describe({kind, 0, {}, {}})); }

  static std::string describe(const LexedToken& token) {
    switch (token.kind) {
      case TokenKind::kData: return "template data / text";
      case TokenKind::kBlockBegin: return "begin of statement block";
      case TokenKind::kBlockEnd: return "end of statement block";
      case TokenKind::kVariableBegin: return "begin of print statement";
      case TokenKind::kVariableEnd: return "end of print statement";
      case TokenKind::kString: return "string";
      case TokenKind::kInteger: return "integer";
      case TokenKind::kFloat: return "float";
      case TokenKind::kEnd: return "end of template";
      case TokenKind::kName:
      case TokenKind::kOperator: break;
    }
    return token.text;
  }
  [[noreturn]] static void wrong(const std::string& message, int line) {
    throw Failure(FailureKind::kSyntax, message, line);
  }
  [[noreturn]] void wrong(const std::string& message) const { wrong(message, current().line); }

 private:
  LexedToken expect(bool there, std::string_view what) {
    if (there) return next();
    if (is(TokenKind::kEnd)) wrong("unexpected end of template, expected " + repr_text(what) + ".");
    wrong("expected token " + repr_text(what) + ", got " + repr_text(describe(current())));
  }

  std::vector<LexedToken> tokens_;
  std::size_t at_ = 0;
};

}  // namespace metal_marlin::jinja

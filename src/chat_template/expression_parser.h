// Expressions; precedence as jinja2 has it.
#pragma once

#include <initializer_list>
#include <string_view>

#include "chat_template/ast.h"
#include "chat_template/token_stream.h"

namespace metal_marlin::jinja {

ExprPtr make_expr(ExprKind kind, int line);

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  ExprPtr expression(bool conditional = true);
  // Expressions with commas between them are a tuple. `end`: a name that ends it, besides a tag's end.
  ExprPtr tuple(bool conditional = true, std::string_view end = {});
  // Names, or tuples of them; with members: members of namespaces too.
  ExprPtr target(std::string_view end = {}, bool members = false);
  ExprPtr name_target();
  // `| name(arguments)` and so on, of `filtered`, or of a block: null. begins: there is no | before the first.
  ExprPtr filters(ExprPtr filtered, bool begins = false);

 private:
  struct Nesting;
  ExprPtr tuple_of(std::string_view end, bool parentheses, const std::function<ExprPtr()>& item);
  ExprPtr conditional();
  ExprPtr either();
  ExprPtr both();
  ExprPtr negation();
  ExprPtr compare();
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool filtered = true);
  ExprPtr primary(bool members = false);
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr node);
  ExprPtr filter_or_test(ExprPtr node);
  ExprPtr subscript(ExprPtr node);
  ExprPtr subscribed();
  ExprPtr call(ExprPtr node);
  ExprPtr test(ExprPtr node);
  void arguments(Expr& call);
  void argument(Expr& call, int line);
  template <class Operand>
  ExprPtr binary(std::initializer_list<std::pair<std::string_view, Operator>> operators, Operand operand);

  TokenStream& stream_;
  int depth_ = 0;
};

}  // namespace metal_marlin::jinja

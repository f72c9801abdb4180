#include "chat_template/expression_parser.h"

#include <algorithm>
#include <array>
#include <functional>

namespace metal_marlin::jinja {
namespace {

constexpr std::array<std::pair<std::string_view, Operator>, 6> kComparisons = {{{"==", Operator::kEq},
                                                                                {"!=", Operator::kNe},
                                                                                {"<", Operator::kLt},
                                                                                {"<=", Operator::kLe},
                                                                                {">", Operator::kGt},
                                                                                {">=", Operator::kGe}}};

bool can_assign(const Expr& expr) {
  if (expr.kind == ExprKind::kTuple) {
    return std::all_of(expr.items.begin(), expr.items.end(), [](const ExprPtr& item) { return can_assign(*item); });
  }
  return expr.kind == ExprKind::kName || expr.kind == ExprKind::kMember;
}

const char* node_name(ExprKind kind) {
  return kind == ExprKind::kList ? "list" : kind == ExprKind::kDict ? "dict" : "const";
}

ExprPtr make_pair(ExprKind kind, ExprPtr left, ExprPtr right) {
  ExprPtr node = make_expr(kind, left->line);
  node->items.push_back(std::move(left));
  node->items.push_back(std::move(right));
  return node;
}

}  // namespace

ExprPtr make_expr(ExprKind kind, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

// How deep the tree is, which is walked and taken down by recursion.
struct ExpressionParser::Nesting {
  explicit Nesting(ExpressionParser& of) : parser(of), before(of.depth_) { deeper(); }
  ~Nesting() { parser.depth_ = before; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  void deeper() const {
    if (++parser.depth_ > kMaxDepth) {
      throw Failure(FailureKind::kUnsupported, fmt::format("expressions nested more than {} deep", kMaxDepth),
                    parser.stream_.current().line);
    }
  }
  ExpressionParser& parser;
  int before;
};

ExprPtr ExpressionParser::expression(bool with_conditional) {
  const Nesting nesting(*this);
  return with_conditional ? conditional() : either();
}

ExprPtr ExpressionParser::tuple_of(std::string_view end, bool parentheses, const std::function<ExprPtr()>& item) {
  const int line = stream_.current().line;
  ExprPtr out = make_expr(ExprKind::kTuple, line);
  bool is_tuple = false;
  for (;;) {
    if (!out->items.empty()) stream_.expect_operator(",");
    if (stream_.is(TokenKind::kVariableEnd) || stream_.is(TokenKind::kBlockEnd) || stream_.is_operator(")") ||
        (!end.empty() && stream_.is_name(end))) {
      break;
    }
    out->items.push_back(item());
    if (!stream_.is_operator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return out;
  if (!out->items.empty()) return std::move(out->items.front());
  if (!parentheses) {
    stream_.wrong("Expected an expression, got " + repr_text(TokenStream::describe(stream_.current())));
  }
  return out;
}

ExprPtr ExpressionParser::tuple(bool with_conditional, std::string_view end) {
  return tuple_of(end, false, [&] { return expression(with_conditional); });
}

ExprPtr ExpressionParser::target(std::string_view end, bool members) {
  ExprPtr out = tuple_of(end, false, [&] { return primary(members); });
  if (!can_assign(*out)) {
    TokenStream::wrong(fmt::format("can't assign to '{}'", node_name(out->kind)), out->line);
  }
  return out;
}

ExprPtr ExpressionParser::name_target() {
  const LexedToken token = stream_.expect_name();
  static constexpr std::array<std::string_view, 6> kConstants = {"true", "false", "none", "True", "False", "None"};
  if (std::find(kConstants.begin(), kConstants.end(), token.text) != kConstants.end()) {
    TokenStream::wrong("can't assign to 'name'", token.line);
  }
  ExprPtr out = make_expr(ExprKind::kName, token.line);
  out->name = token.text;
  return out;
}

ExprPtr ExpressionParser::conditional() {
  const Nesting nesting(*this);
  ExprPtr then = either();
  while (stream_.skip_name("if")) {
    nesting.deeper();
    ExprPtr node = make_expr(ExprKind::kConditional, then->line);
    node->items.push_back(either());
    node->items.push_back(std::move(then));
    node->items.push_back(stream_.skip_name("else") ? conditional() : nullptr);
    then = std::move(node);
  }
  return then;
}

ExprPtr ExpressionParser::either() {
  const Nesting nesting(*this);
  ExprPtr left = both();
  while (stream_.skip_name("or")) {
    nesting.deeper();
    left = make_pair(ExprKind::kOr, std::move(left), both());
  }
  return left;
}

ExprPtr ExpressionParser::both() {
  const Nesting nesting(*this);
  ExprPtr left = negation();
  while (stream_.skip_name("and")) {
    nesting.deeper();
    left = make_pair(ExprKind::kAnd, std::move(left), negation());
  }
  return left;
}

ExprPtr ExpressionParser::negation() {
  if (!stream_.is_name("not")) return compare();
  const Nesting nesting(*this);
  ExprPtr node = make_expr(ExprKind::kNot, stream_.next().line);
  node->items.push_back(negation());
  return node;
}

ExprPtr ExpressionParser::compare() {
  ExprPtr first = sum();
  ExprPtr node = make_expr(ExprKind::kCompare, first->line);
  for (;;) {
    const auto* const found = std::find_if(kComparisons.begin(), kComparisons.end(),
                                           [&](const auto& known) { return stream_.is_operator(known.first); });
    if (found != kComparisons.end()) {
      stream_.next();
      node->operators.push_back(found->second);
    } else if (stream_.skip_name("in")) {
      node->operators.push_back(Operator::kIn);
    } else if (stream_.is_name("not") && TokenStream::is_name(stream_.look(), "in")) {
      stream_.next();
      stream_.next();
      node->operators.push_back(Operator::kNotIn);
    } else {
      break;
    }
    node->items.push_back(sum());
  }
  if (node->operators.empty()) return first;
  node->items.insert(node->items.begin(), std::move(first));
  return node;
}

template <class Operand>
ExprPtr ExpressionParser::binary(std::initializer_list<std::pair<std::string_view, Operator>> operators,
                                 Operand operand) {
  const Nesting nesting(*this);
  ExprPtr left = operand();
  for (;;) {
    const auto* const found = std::find_if(operators.begin(), operators.end(),
                                           [&](const auto& known) { return stream_.is_operator(known.first); });
    if (found == operators.end()) return left;
    nesting.deeper();
    stream_.next();
    left = make_pair(ExprKind::kBinary, std::move(left), operand());
    left->operators.push_back(found->second);
  }
}

ExprPtr ExpressionParser::sum() {
  return binary({{"+", Operator::kAdd}, {"-", Operator::kSub}}, [this] { return concat(); });
}

ExprPtr ExpressionParser::concat() {
  ExprPtr first = product();
  if (!stream_.is_operator("~")) return first;
  ExprPtr node = make_expr(ExprKind::kConcat, first->line);
  node->items.push_back(std::move(first));
  while (stream_.skip_operator("~")) node->items.push_back(product());
  return node;
}

ExprPtr ExpressionParser::product() {
  return binary({{"*", Operator::kMul}, {"/", Operator::kDiv}, {"//", Operator::kFloorDiv}, {"%", Operator::kMod}},
                [this] { return power(); });
}

ExprPtr ExpressionParser::power() {
  return binary({{"**", Operator::kPow}}, [this] { return unary(); });
}

ExprPtr ExpressionParser::unary(bool filtered) {
  const Nesting nesting(*this);
  ExprPtr node;
  if (stream_.is_operator("-") || stream_.is_operator("+")) {
    const LexedToken sign = stream_.next();
    node = make_expr(sign.text == "-" ? ExprKind::kNegative : ExprKind::kPositive, sign.line);
    node->items.push_back(unary(false));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return filtered ? filter_or_test(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::primary(bool members) {
  const LexedToken token = stream_.current();
  ExprPtr node = make_expr(ExprKind::kConst, token.line);
  if (token.kind == TokenKind::kName) {
    stream_.next();
    if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
      node->constant = token.text == "true" || token.text == "True";
    } else if (token.text == "none" || token.text == "None") {
      node->constant = None{};
    } else {
      node->kind = ExprKind::kName;
      node->name = token.text;
      if (members && stream_.skip_operator(".")) {
        node->kind = ExprKind::kMember;
        node->member = stream_.expect_name().text;
      }
    }
  } else if (token.kind == TokenKind::kString) {
    std::string text;
    while (stream_.is(TokenKind::kString)) text += stream_.next().text;
    node->constant = std::move(text);
  } else if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) {
    node->constant = stream_.next().number;
  } else if (stream_.skip_operator("(")) {
    node = tuple_of({}, true, [this] { return expression(); });
    stream_.expect_operator(")");
  } else if (stream_.is_operator("[")) {
    node = list();
  } else if (stream_.is_operator("{")) {
    node = dict();
  } else {
    TokenStream::wrong("unexpected " + repr_text(TokenStream::describe(token)), token.line);
  }
  return node;
}

ExprPtr ExpressionParser::list() {
  ExprPtr node = make_expr(ExprKind::kList, stream_.expect_operator("[").line);
  while (!stream_.is_operator("]")) {
    if (!node->items.empty()) stream_.expect_operator(",");
    if (stream_.is_operator("]")) break;
    node->items.push_back(expression());
  }
  stream_.expect_operator("]");
  return node;
}

ExprPtr ExpressionParser::dict() {
  ExprPtr node = make_expr(ExprKind::kDict, stream_.expect_operator("{").line);
  while (!stream_.is_operator("}")) {
    if (!node->items.empty()) stream_.expect_operator(",");
    if (stream_.is_operator("}")) break;
    node->items.push_back(expression());
    stream_.expect_operator(":");
    node->items.push_back(expression());
  }
  stream_.expect_operator("}");
  return node;
}

ExprPtr ExpressionParser::postfix(ExprPtr node) {
  const Nesting nesting(*this);
  for (;; nesting.deeper()) {
    if (stream_.is_operator(".") || stream_.is_operator("[")) {
      node = subscript(std::move(node));
    } else if (stream_.is_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::filter_or_test(ExprPtr node) {
  const Nesting nesting(*this);
  for (;; nesting.deeper()) {
    if (stream_.is_operator("|")) {
      node = filters(std::move(node));
    } else if (stream_.is_name("is")) {
      node = test(std::move(node));
    } else if (stream_.is_operator("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr node) {
  const LexedToken token = stream_.next();
  ExprPtr out = make_expr(ExprKind::kSubscript, token.line);
  out->items.push_back(std::move(node));
  if (token.text == ".") {
    const LexedToken attribute = stream_.next();
    if (attribute.kind == TokenKind::kName) {
      out->kind = ExprKind::kAttribute;
      out->name = attribute.text;
      return out;
    }
    if (attribute.kind != TokenKind::kInteger) TokenStream::wrong("expected name or number", attribute.line);
    out->items.push_back(make_expr(ExprKind::kConst, attribute.line));
    out->items.back()->constant = attribute.number;
    return out;
  }
  ExprPtr index = make_expr(ExprKind::kTuple, token.line);
  while (!stream_.is_operator("]")) {
    if (!index->items.empty()) stream_.expect_operator(",");
    index->items.push_back(subscribed());
  }
  stream_.expect_operator("]");
  out->items.push_back(index->items.size() == 1 ? std::move(index->items.front()) : std::move(index));
  return out;
}

ExprPtr ExpressionParser::subscribed() {
  ExprPtr node = make_expr(ExprKind::kSlice, stream_.current().line);
  ExprPtr start;
  if (!stream_.is_operator(":")) {
    start = expression();
    if (!stream_.is_operator(":")) return start;
  }
  stream_.next();
  const auto ends = [&] { return stream_.is_operator(":") || stream_.is_operator("]") || stream_.is_operator(","); };
  node->items.push_back(std::move(start));
  node->items.push_back(ends() ? nullptr : expression());
  node->items.push_back(stream_.skip_operator(":") && !ends() ? expression() : nullptr);
  return node;
}

void ExpressionParser::argument(Expr& call, int line) {
  const auto ensure = [&](bool good) {
    if (!good) TokenStream::wrong("invalid syntax for function call expression", line);
  };
  if (stream_.skip_operator("*")) {
    ensure(!call.more && !call.more_named);
    call.more = expression();
  } else if (stream_.skip_operator("**")) {
    ensure(!call.more_named);
    call.more_named = expression();
  } else if (stream_.is(TokenKind::kName) && TokenStream::is_operator(stream_.look(), "=")) {
    ensure(!call.more_named);
    std::string name = stream_.next().text;
    stream_.next();
    const auto same_name = [&](const auto& named) { return named.first == name; };
    if (std::any_of(call.named.begin(), call.named.end(), same_name)) {
      TokenStream::wrong("keyword argument repeated: " + name, line);
    }
    call.named.emplace_back(std::move(name), expression());
  } else {
    ensure(!call.more && !call.more_named && call.named.empty());
    call.items.push_back(expression());
  }
}

void ExpressionParser::arguments(Expr& call) {
  const int line = stream_.expect_operator("(").line;
  bool comma = false;
  while (!stream_.is_operator(")")) {
    if (comma) {
      stream_.expect_operator(",");
      if (stream_.is_operator(")")) break;
    }
    argument(call, line);
    comma = true;
  }
  stream_.expect_operator(")");
}

ExprPtr ExpressionParser::call(ExprPtr node) {
  ExprPtr out = make_expr(ExprKind::kCall, stream_.current().line);
  out->items.push_back(std::move(node));
  arguments(*out);
  return out;
}

ExprPtr ExpressionParser::filters(ExprPtr filtered, bool begins) {
  const Nesting nesting(*this);
  for (; begins || stream_.is_operator("|"); nesting.deeper()) {
    if (!begins) stream_.next();
    begins = false;
    const LexedToken token = stream_.expect_name();
    ExprPtr node = make_expr(ExprKind::kFilter, token.line);
    node->name = token.text;
    while (stream_.skip_operator(".")) node->name.append(".").append(stream_.expect_name().text);
    node->items.push_back(std::move(filtered));
    if (stream_.is_operator("(")) arguments(*node);
    filtered = std::move(node);
  }
  return filtered;
}

ExprPtr ExpressionParser::test(ExprPtr node) {
  ExprPtr out = make_expr(ExprKind::kTest, stream_.next().line);
  const bool negated = stream_.skip_name("not");
  out->name = stream_.expect_name().text;
  while (stream_.skip_operator(".")) out->name.append(".").append(stream_.expect_name().text);
  out->items.push_back(std::move(node));
  const TokenKind kind = stream_.current().kind;
  const bool opens = stream_.is_operator("[") || stream_.is_operator("{");
  if (stream_.is_operator("(")) {
    arguments(*out);
  } else if ((kind == TokenKind::kName || kind == TokenKind::kString || kind == TokenKind::kInteger ||
              kind == TokenKind::kFloat || opens) &&
             !stream_.is_name("else") && !stream_.is_name("or") && !stream_.is_name("and")) {
    if (stream_.is_name("is")) stream_.wrong("You cannot chain multiple tests with is");
    out->items.push_back(postfix(primary()));
  }
  if (!negated) return out;
  ExprPtr negation = make_expr(ExprKind::kNot, out->line);
  negation->items.push_back(std::move(out));
  return negation;
}

}  // namespace metal_marlin::jinja

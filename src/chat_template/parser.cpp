#include "chat_template/parser.h"

#include <algorithm>
#include <initializer_list>
#include <set>

#include "chat_template/expression_parser.h"
#include "chat_template/lexer.h"

namespace metal_marlin::jinja {
namespace {

using StmtPtr = std::unique_ptr<Stmt>;

StmtPtr make_stmt(StmtKind kind, int line) {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = line;
  return stmt;
}

class Parser {
 public:
  explicit Parser(std::string_view source) : stream_(tokenize(source)), expressions_(stream_) {}

  Body run() { return statements_until({}); }

 private:
  using Ends = std::vector<std::string_view>;

  // What is between here and one of the tags `ends`, which is the current token then.
  Body statements_until(const Ends& ends);
  // The rest of this tag, then the statements up to one of the tags.
  Body body(const Ends& ends);
  Body body_to(std::string_view end) {
    Body out = body({end});
    stream_.next();
    return out;
  }
  StmtPtr statement();
  StmtPtr dispatch(const LexedToken& token);
  [[noreturn]] void unknown_tag(const LexedToken* tag) const;

  StmtPtr parse_set();
  StmtPtr parse_for();
  StmtPtr parse_if();
  StmtPtr parse_with();
  StmtPtr parse_autoescape();
  StmtPtr parse_block();
  StmtPtr parse_macro();
  StmtPtr parse_call();
  StmtPtr parse_filter();
  StmtPtr parse_generation();
  StmtPtr parse_print();
  StmtPtr parse_loop_control(const LexedToken& token);
  StmtPtr parse_loaded(const LexedToken& token);
  void parse_signature(Stmt& stmt);

  TokenStream stream_;
  ExpressionParser expressions_;
  std::vector<Ends> ends_;
  std::vector<std::string> tags_;
  std::set<std::string> blocks_;
  int loops_ = 0;  // around this place, in this function
};

std::string joined(const std::vector<std::string_view>& names) {
  std::string out;
  for (const std::string_view name : names) out += (out.empty() ? "" : " or ") + repr_text(name);
  return out;
}

void Parser::unknown_tag(const LexedToken* tag) const {
  std::string message = tag ? "Encountered unknown tag " + repr_text(tag->text) + "." : "Unexpected end of template.";
  if (!ends_.empty()) {
    const std::string looking = joined(ends_.back());
    const bool nested_wrong = tag != nullptr && std::any_of(ends_.begin(), ends_.end(), [&](const Ends& ends) {
                                return std::find(ends.begin(), ends.end(), tag->text) != ends.end();
                              });
    message += nested_wrong ? " You probably made a nesting mistake. Jinja is expecting this tag, but currently "
                              "looking for " +
                                  looking + "."
                            : " Jinja was looking for the following tags: " + looking + ".";
  }
  if (!tags_.empty()) message += " The innermost block that needs to be closed is " + repr_text(tags_.back()) + ".";
  stream_.wrong(message);
}

Body Parser::statements_until(const Ends& ends) {
  Body out;
  StmtPtr output;
  if (!ends.empty()) ends_.push_back(ends);
  const auto flush = [&] {
    if (output) out.push_back(std::move(output));
  };
  const auto add = [&](ExprPtr expr) {
    if (!output) output = make_stmt(StmtKind::kOutput, expr->line);
    output->exprs.push_back(std::move(expr));
  };
  while (!stream_.is(TokenKind::kEnd)) {
    const LexedToken token = stream_.next();
    if (token.kind == TokenKind::kData) {
      ExprPtr data = make_expr(ExprKind::kConst, token.line);
      data->constant = token.text;
      add(std::move(data));
    } else if (token.kind == TokenKind::kVariableBegin) {
      add(expressions_.tuple());
      stream_.expect_kind(TokenKind::kVariableEnd);
    } else {
      flush();
      const bool end = std::any_of(ends.begin(), ends.end(), [&](auto name) { return stream_.is_name(name); });
      if (end) {
        ends_.pop_back();
        return out;
      }
      out.push_back(statement());
      stream_.expect_kind(TokenKind::kBlockEnd);
    }
  }
  flush();
  if (!ends.empty()) unknown_tag(nullptr);
  return out;
}

Body Parser::body(const Ends& ends) {
  stream_.skip_operator(":");
  stream_.expect_kind(TokenKind::kBlockEnd);
  return statements_until(ends);
}

StmtPtr Parser::statement() {
  const LexedToken token = stream_.current();
  if (token.kind != TokenKind::kName) TokenStream::wrong("tag name expected", token.line);
  if (tags_.size() > kMaxDepth / 2) {
    throw Failure(FailureKind::kUnsupported, fmt::format("blocks nested more than {} deep", kMaxDepth / 2), token.line);
  }
  tags_.push_back(token.text);
  StmtPtr out = dispatch(token);
  tags_.pop_back();
  return out;
}

StmtPtr Parser::dispatch(const LexedToken& token) {
  using Method = StmtPtr (Parser::*)();
  static constexpr std::pair<std::string_view, Method> kTags[] = {{"set", &Parser::parse_set},
                                                                  {"for", &Parser::parse_for},
                                                                  {"if", &Parser::parse_if},
                                                                  {"with", &Parser::parse_with},
                                                                  {"block", &Parser::parse_block},
                                                                  {"macro", &Parser::parse_macro},
                                                                  {"call", &Parser::parse_call},
                                                                  {"filter", &Parser::parse_filter},
                                                                  {"print", &Parser::parse_print},
                                                                  {"autoescape", &Parser::parse_autoescape},
                                                                  {"generation", &Parser::parse_generation}};
  for (const auto& [name, method] : kTags) {
    if (token.text == name) return (this->*method)();
  }
  if (token.text == "break" || token.text == "continue") return parse_loop_control(token);
  for (const std::string_view name : {"include", "import", "from", "extends"}) {
    if (token.text == name) return parse_loaded(token);
  }
  tags_.pop_back();
  unknown_tag(&token);
}

StmtPtr Parser::parse_set() {
  StmtPtr out = make_stmt(StmtKind::kAssign, stream_.next().line);
  out->target = expressions_.target({}, true);
  if (stream_.skip_operator("=")) {
    out->expr = expressions_.tuple();
    return out;
  }
  out->kind = StmtKind::kAssignBlock;
  out->expr = expressions_.filters(nullptr);
  out->body = body_to("endset");
  return out;
}

StmtPtr Parser::parse_for() {
  StmtPtr out = make_stmt(StmtKind::kFor, stream_.next().line);
  out->target = expressions_.target("in");
  stream_.expect_name("in");
  out->expr = expressions_.tuple(false, "recursive");
  if (stream_.skip_name("if")) out->test = expressions_.expression();
  out->recursive = stream_.skip_name("recursive");
  ++loops_;
  out->body = body({"endfor", "else"});
  --loops_;
  if (stream_.next().text == "else") out->otherwise = body_to("endfor");
  return out;
}

StmtPtr Parser::parse_if() {
  StmtPtr out = make_stmt(StmtKind::kIf, stream_.next().line);
  Stmt* part = out.get();
  for (;;) {
    part->expr = expressions_.tuple(false);
    part->body = body({"elif", "else", "endif"});
    const LexedToken token = stream_.next();
    if (token.text == "elif") {
      out->elifs.push_back(make_stmt(StmtKind::kIf, stream_.current().line));
      part = out->elifs.back().get();
      continue;
    }
    if (token.text == "else") out->otherwise = body_to("endif");
    return out;
  }
}

StmtPtr Parser::parse_with() {
  StmtPtr out = make_stmt(StmtKind::kWith, stream_.next().line);
  while (!stream_.is(TokenKind::kBlockEnd)) {
    if (!out->parameters.empty()) stream_.expect_operator(",");
    out->parameters.push_back(expressions_.target());
    stream_.expect_operator("=");
    out->exprs.push_back(expressions_.expression());
  }
  out->body = body_to("endwith");
  return out;
}

StmtPtr Parser::parse_autoescape() {
  StmtPtr out = make_stmt(StmtKind::kScope, stream_.next().line);
  const ExprPtr on = expressions_.expression();
  if (on->kind != ExprKind::kConst || truth(on->constant)) {
    throw Failure(FailureKind::kUnsupported, "autoescape, other than false", out->line);
  }
  out->body = body_to("endautoescape");
  return out;
}

StmtPtr Parser::parse_block() {
  StmtPtr out = make_stmt(StmtKind::kBlock, stream_.next().line);
  out->name = stream_.expect_name().text;
  out->scoped = stream_.skip_name("scoped");
  const bool required = stream_.skip_name("required");
  if (stream_.is_operator("-")) {
    stream_.wrong(
        "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an underscore "
        "instead.");
  }
  const int loops = std::exchange(loops_, 0);
  out->body = body_to("endblock");
  loops_ = loops;
  stream_.skip_name(out->name);
  if (!blocks_.insert(out->name).second) {
    TokenStream::wrong("block " + repr_text(out->name) + " defined twice", out->line);
  }
  if (!required) return out;
  StmtPtr refused = make_stmt(StmtKind::kRefused, out->line);
  refused->name = "Required block " + repr_text(out->name) + " not found";
  return refused;
}

void Parser::parse_signature(Stmt& stmt) {
  stream_.expect_operator("(");
  std::set<std::string> names;
  while (!stream_.is_operator(")")) {
    if (!stmt.parameters.empty()) stream_.expect_operator(",");
    ExprPtr parameter = expressions_.name_target();
    if (!names.insert(parameter->name).second) {
      TokenStream::wrong("duplicate argument " + repr_text(parameter->name) + " in function definition",
                         parameter->line);
    }
    if (stream_.skip_operator("=")) {
      stmt.defaults.push_back(expressions_.expression());
    } else if (!stmt.defaults.empty()) {
      stream_.wrong("non-default argument follows default argument");
    }
    stmt.parameters.push_back(std::move(parameter));
  }
  stream_.expect_operator(")");
}

StmtPtr Parser::parse_macro() {
  StmtPtr out = make_stmt(StmtKind::kMacro, stream_.next().line);
  out->target = expressions_.name_target();
  out->name = out->target->name;
  parse_signature(*out);
  const int loops = std::exchange(loops_, 0);
  out->body = body_to("endmacro");
  loops_ = loops;
  return out;
}

StmtPtr Parser::parse_call() {
  StmtPtr out = make_stmt(StmtKind::kCallBlock, stream_.next().line);
  if (stream_.is_operator("(")) parse_signature(*out);
  out->expr = expressions_.expression();
  if (out->expr->kind != ExprKind::kCall) TokenStream::wrong("expected call", out->line);
  const int loops = std::exchange(loops_, 0);
  out->body = body_to("endcall");
  loops_ = loops;
  return out;
}

StmtPtr Parser::parse_filter() {
  StmtPtr out = make_stmt(StmtKind::kFilterBlock, stream_.next().line);
  out->expr = expressions_.filters(nullptr, true);
  out->body = body_to("endfilter");
  return out;
}

// A call block around what the model says, in transformers; here its text alone counts.
StmtPtr Parser::parse_generation() {
  StmtPtr out = make_stmt(StmtKind::kCallBlock, stream_.next().line);
  const int loops = std::exchange(loops_, 0);
  out->body = body_to("endgeneration");
  loops_ = loops;
  return out;
}

StmtPtr Parser::parse_print() {
  StmtPtr out = make_stmt(StmtKind::kOutput, stream_.next().line);
  while (!stream_.is(TokenKind::kBlockEnd)) {
    if (!out->exprs.empty()) stream_.expect_operator(",");
    out->exprs.push_back(expressions_.expression());
  }
  return out;
}

StmtPtr Parser::parse_loop_control(const LexedToken& token) {
  stream_.next();
  if (loops_ == 0) {
    TokenStream::wrong(token.text == "break" ? "'break' outside loop" : "'continue' not properly in loop", token.line);
  }
  return make_stmt(token.text == "break" ? StmtKind::kBreak : StmtKind::kContinue, token.line);
}

// Other templates: there are none, so that reaching one is an error, as it is for transformers.
StmtPtr Parser::parse_loaded(const LexedToken& token) {
  StmtPtr out = make_stmt(StmtKind::kRefused, stream_.next().line);
  out->name = "no loader for this environment specified ({% " + token.text + " %} of another template)";
  while (!stream_.is(TokenKind::kBlockEnd) && !stream_.is(TokenKind::kEnd)) stream_.next();
  return out;
}

}  // namespace

Body parse(std::string_view source) {
  return Parser(source).run();
}

}  // namespace metal_marlin::jinja

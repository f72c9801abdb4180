#include "metal_marlin/grammar.h"

#include "base/unicode.h"
#include "grammar/gbnf.h"
#include "grammar/grammar_impl.h"
#include "grammar/guide.h"
#include "grammar/json_rules.h"
#include "grammar/made_grammar.h"
#include "grammar/pattern.h"
#include "grammar/schema.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

Rules rules_of(Rules rules, ExpressionId root) {
  const RuleId rule = rules.declare("root");
  rules.define(rule, root);
  rules.set_root(rule);
  return rules;
}

}  // namespace

Grammar::Grammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;

std::shared_ptr<const Grammar> Grammar::from_gbnf(std::string_view text, const std::string& where) {
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Impl>(parse_gbnf(text, where))));
}

std::shared_ptr<const Grammar> Grammar::from_regex(std::string_view pattern) {
  Rules rules;
  const ExpressionId root = parse_pattern(rules, pattern, "regex");
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Impl>(rules_of(std::move(rules), root))));
}

std::shared_ptr<const Grammar> Grammar::from_choice(std::span<const std::string> texts) {
  if (texts.empty()) throw Error(ErrorCode::kInvalidArgument, "choice: there are no texts");
  Rules rules;
  std::vector<ExpressionId> out;
  for (const std::string& text : texts) {
    if (!is_valid_utf8(text)) throw Error(ErrorCode::kInvalidArgument, "choice: a text that is not UTF-8");
    out.push_back(rules.text(text));
  }
  const ExpressionId root = rules.any_of(std::move(out));
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Impl>(rules_of(std::move(rules), root))));
}

std::shared_ptr<const Grammar> Grammar::any_json_object() {
  Rules rules;
  const ExpressionId root = JsonRules(rules).object();
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Impl>(rules_of(std::move(rules), root))));
}

std::shared_ptr<const Grammar> Grammar::from_json_schema(std::string_view schema, const std::string& where) {
  Rules rules;
  const ExpressionId root = parse_schema(rules, schema, where);
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Impl>(rules_of(std::move(rules), root))));
}

std::shared_ptr<const Grammar> make_grammar(Rules rules, ExpressionId root) {
  return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<Grammar::Impl>(rules_of(std::move(rules), root))));
}

bool Grammar::matches(std::string_view text) const {
  GrammarMatcher matcher(*this);
  return matcher.accept(text) && matcher.is_complete();
}

std::size_t Grammar::bytes() const {
  return impl_->rules.memory() + impl_->automaton->memory();
}

}  // namespace metal_marlin

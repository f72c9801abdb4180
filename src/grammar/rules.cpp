#include "grammar/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kMostExpressions = std::size_t{1} << 18;
constexpr std::size_t kMostRules = std::size_t{1} << 16;
constexpr std::size_t kMostTextBytes = std::size_t{1} << 22;
constexpr int kMostDepth = 1000;

void check_limit(std::size_t found, std::size_t most, const char* what) {
  if (found > most)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("the grammar is too large: more than {} {}", most, what));
}

}  // namespace

ExpressionId Rules::add(Expression expression) {
  for (const ExpressionId part : expression.parts)
    expression.depth = std::max(expression.depth, expressions_[part].depth + 1);
  check_limit(static_cast<std::size_t>(expression.depth), kMostDepth, "levels of expressions in each other");
  bytes_ += expression.bytes.size() + expression.characters.size();
  for (const ByteState& state : expression.states) bytes_ += 1 + state.edges.size();
  check_limit(bytes_, kMostTextBytes, "bytes of text");
  expressions_.push_back(std::move(expression));
  check_limit(expressions_.size(), kMostExpressions, "expressions");
  return static_cast<ExpressionId>(expressions_.size() - 1);
}

ExpressionId Rules::text(std::string_view bytes) {
  if (bytes.empty()) return empty();
  Expression out;
  out.kind = ExpressionKind::kBytes;
  out.bytes = bytes;
  return add(std::move(out));
}

ExpressionId Rules::characters(const Characters& set) {
  Expression out;
  out.kind = ExpressionKind::kCharacters;
  out.characters = utf8_sequences(set);
  return add(std::move(out));
}

ExpressionId Rules::sequence(std::vector<ExpressionId> parts) {
  if (parts.size() == 1) return parts.front();
  Expression out;
  out.parts = std::move(parts);
  return add(std::move(out));
}

ExpressionId Rules::any_of(std::vector<ExpressionId> alternatives) {
  if (alternatives.size() == 1) return alternatives.front();
  Expression out;
  out.kind = ExpressionKind::kAlternatives;
  out.parts = std::move(alternatives);
  return add(std::move(out));
}

ExpressionId Rules::repeat(ExpressionId what, int least, std::optional<int> most) {
  check_limit(static_cast<std::size_t>(std::max(least, most.value_or(0))), kMostRepeats, "repeats of one expression");
  Expression out;
  out.kind = ExpressionKind::kRepeat;
  out.parts = {what};
  out.least = least;
  out.most = most;
  return add(std::move(out));
}

ExpressionId Rules::automaton(std::vector<ByteState> states) {
  Expression out;
  out.kind = ExpressionKind::kAutomaton;
  out.states = std::move(states);
  return add(std::move(out));
}

ExpressionId Rules::call(RuleId rule) {
  Expression out;
  out.kind = ExpressionKind::kRule;
  out.rule = rule;
  return add(std::move(out));
}

RuleId Rules::declare(std::string name) {
  names_.push_back(std::move(name));
  definitions_.emplace_back();
  check_limit(names_.size(), kMostRules, "rules");
  return static_cast<RuleId>(names_.size() - 1);
}

ExpressionId Rules::rule(std::string name, ExpressionId is) {
  const RuleId rule = declare(std::move(name));
  define(rule, is);
  return call(rule);
}

std::size_t Rules::memory() const {
  std::size_t out = names_.size() * (sizeof(std::string) + sizeof(ExpressionId));
  for (const std::string& name : names_) out += name.capacity();
  for (const Expression& expression : expressions_) {
    out += sizeof(Expression) + expression.bytes.capacity() + expression.parts.capacity() * sizeof(ExpressionId);
    for (const ByteSequence& sequence : expression.characters)
      out += sizeof(ByteSequence) + sequence.capacity() * sizeof(ByteRange);
    for (const ByteState& state : expression.states)
      out += sizeof(ByteState) + state.edges.capacity() * sizeof(ByteState::Edge);
  }
  return out;
}

}  // namespace metal_marlin

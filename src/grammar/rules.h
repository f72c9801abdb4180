// Context-free rules over bytes: what every front end makes, and what becomes an automaton.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/characters.h"

namespace metal_marlin {

using ExpressionId = std::uint32_t;
using RuleId = std::uint32_t;

enum class ExpressionKind : std::uint8_t { kSequence, kAlternatives, kRepeat, kBytes, kCharacters, kAutomaton, kRule };

// A state of an automaton over bytes.
struct ByteState {
  struct Edge {
    std::uint8_t low;
    std::uint8_t high;
    std::uint32_t target;
  };
  std::vector<Edge> edges;
  bool accepts = false;
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kSequence;
  std::vector<ExpressionId> parts;  // of sequences (none: the empty text), alternatives (none: no text) and repeats
  std::string bytes;
  std::vector<ByteSequence> characters;
  std::vector<ByteState> states;  // of automata, which begin with the first
  RuleId rule = 0;
  int least = 0;
  std::optional<int> most;  // none: any number of times
  int depth = 1;
};

// Rules and the expressions that they consist of, which may share parts. What would take too much is refused when it is
// added: \throws Error (kInvalidArgument) saying which limit it passed.
class Rules {
 public:
  ExpressionId empty() { return sequence({}); }
  ExpressionId nothing() { return any_of({}); }  // which no text matches
  ExpressionId text(std::string_view bytes);
  ExpressionId characters(const Characters& set);
  ExpressionId sequence(std::vector<ExpressionId> parts);
  ExpressionId any_of(std::vector<ExpressionId> alternatives);
  ExpressionId repeat(ExpressionId what, int least, std::optional<int> most);
  ExpressionId optional(ExpressionId what) { return repeat(what, 0, 1); }
  ExpressionId automaton(std::vector<ByteState> states);
  ExpressionId call(RuleId rule);

  RuleId declare(std::string name);
  void define(RuleId rule, ExpressionId is) { definitions_[rule] = is; }
  // Declares and defines.
  ExpressionId rule(std::string name, ExpressionId is);
  void set_root(RuleId rule) { root_ = rule; }

  [[nodiscard]] RuleId root() const { return root_; }
  // About what it takes in memory.
  [[nodiscard]] std::size_t memory() const;
  [[nodiscard]] std::size_t rule_count() const { return names_.size(); }
  [[nodiscard]] const std::string& name(RuleId rule) const { return names_[rule]; }
  [[nodiscard]] bool is_defined(RuleId rule) const { return definitions_[rule].has_value(); }
  [[nodiscard]] ExpressionId definition(RuleId rule) const { return *definitions_[rule]; }
  [[nodiscard]] const Expression& expression(ExpressionId id) const { return expressions_[id]; }

 private:
  ExpressionId add(Expression expression);

  std::vector<Expression> expressions_;
  std::vector<std::string> names_;
  std::vector<std::optional<ExpressionId>> definitions_;
  std::size_t bytes_ = 0;
  RuleId root_ = 0;
};

// Most times that a repeat may count to.
constexpr int kMostRepeats = 100'000;

}  // namespace metal_marlin

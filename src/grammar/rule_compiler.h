// One rule's expression as a deterministic automaton.
#pragma once

#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/rules.h"

namespace metal_marlin {

// Thompson's construction, and the subsets that can be reached of it.
class RuleCompiler {
 public:
  // An automaton's states by their places, the first one its start.
  using Edge = ByteState::Edge;
  struct Call {
    RuleId rule;
    std::uint32_t target;
  };
  struct State {
    std::vector<Edge> edges;
    std::vector<Call> calls;
    bool accepts = false;
  };

  RuleCompiler(const Rules& rules, const ByteSet& bytes) : rules_(rules), bytes_(bytes) {}
  std::vector<State> compile(ExpressionId id);

 private:
  struct Node {
    std::vector<std::uint32_t> empty;  // moves that read nothing
    std::vector<Edge> edges;
    std::vector<Call> calls;
  };
  using Subset = std::vector<std::uint32_t>;

  std::uint32_t add_node();
  void connect(std::uint32_t from, std::uint32_t to);
  std::uint32_t build(ExpressionId id, std::uint32_t from);
  std::uint32_t build_repeat(const Expression& expression, std::uint32_t from);
  std::uint32_t build_characters(const Expression& expression, std::uint32_t from);
  std::uint32_t build_automaton(const Expression& expression, std::uint32_t from);
  void close(Subset& subset);
  std::uint32_t place_of(Subset subset);
  void expand(std::uint32_t place);
  void expand_bytes(const Subset& subset, State& out);
  void add_edge(State& state, std::uint8_t byte, std::uint32_t target) const;

  const Rules& rules_;
  const ByteSet& bytes_;
  std::size_t work_ = 0;  // over all rules
  std::vector<Node> nodes_;
  std::uint32_t end_ = 0;
  std::map<Subset, std::uint32_t> places_;
  std::vector<Subset> subsets_;
  std::vector<State> states_;
  std::vector<char> is_in_;  // by node: in the subset that is being closed
};

}  // namespace metal_marlin

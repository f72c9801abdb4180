#include "grammar/rule_compiler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// What a grammar may take, of all its rules together: nodes that were made, and entries of subsets that were looked at.
constexpr std::size_t kMostWork = std::size_t{1} << 23;
constexpr std::size_t kNodeWork = 8;

}  // namespace

std::uint32_t RuleCompiler::add_node() {
  work_ += kNodeWork;
  if (work_ > kMostWork)
    throw Error(ErrorCode::kInvalidArgument, "the grammar is too large: its automaton takes too long to make");
  nodes_.emplace_back();
  return static_cast<std::uint32_t>(nodes_.size() - 1);
}

void RuleCompiler::connect(std::uint32_t from, std::uint32_t to) {
  nodes_[from].empty.push_back(to);
}

// \returns the node behind the expression.
std::uint32_t RuleCompiler::build(ExpressionId id, std::uint32_t from) {
  const Expression& expression = rules_.expression(id);
  switch (expression.kind) {
    case ExpressionKind::kSequence:
      for (const ExpressionId part : expression.parts) from = build(part, from);
      return from;
    case ExpressionKind::kAlternatives: {
      const std::uint32_t end = add_node();
      for (const ExpressionId part : expression.parts) {
        const std::uint32_t begin = add_node();
        connect(from, begin);
        connect(build(part, begin), end);
      }
      return end;
    }
    case ExpressionKind::kRepeat: return build_repeat(expression, from);
    case ExpressionKind::kBytes:
      for (const char c : expression.bytes) {
        const std::uint32_t next = add_node();
        const auto byte = static_cast<std::uint8_t>(c);
        nodes_[from].edges.push_back({byte, byte, next});
        from = next;
      }
      return from;
    case ExpressionKind::kCharacters: return build_characters(expression, from);
    case ExpressionKind::kAutomaton: return build_automaton(expression, from);
    case ExpressionKind::kRule: break;
  }
  const std::uint32_t next = add_node();
  nodes_[from].calls.push_back({expression.rule, next});
  return next;
}

std::uint32_t RuleCompiler::build_repeat(const Expression& expression, std::uint32_t from) {
  const ExpressionId part = expression.parts.front();
  for (int i = 0; i < expression.least; ++i) from = build(part, from);
  const std::uint32_t end = add_node();
  if (!expression.most) {
    const std::uint32_t begin = add_node();  // of its own: what comes before must not be repeated
    connect(from, begin);
    connect(build(part, begin), begin);
    connect(begin, end);
    return end;
  }
  connect(from, end);
  for (int i = expression.least; i < *expression.most; ++i) {
    const std::uint32_t begin = add_node();
    connect(from, begin);
    from = build(part, begin);
    connect(from, end);
  }
  return end;
}

std::uint32_t RuleCompiler::build_characters(const Expression& expression, std::uint32_t from) {
  const std::uint32_t end = add_node();
  for (const ByteSequence& sequence : expression.characters) {
    std::uint32_t at = from;
    for (std::size_t i = 0; i < sequence.size(); ++i) {
      const std::uint32_t next = i + 1 == sequence.size() ? end : add_node();
      nodes_[at].edges.push_back({sequence[i].low, sequence[i].high, next});
      at = next;
    }
  }
  return end;
}

std::uint32_t RuleCompiler::build_automaton(const Expression& expression, std::uint32_t from) {
  const std::uint32_t end = add_node();
  std::vector<std::uint32_t> nodes;
  for (std::size_t i = 0; i < expression.states.size(); ++i) nodes.push_back(add_node());
  connect(from, nodes.front());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const ByteState& state = expression.states[i];
    for (const Edge& edge : state.edges) nodes_[nodes[i]].edges.push_back({edge.low, edge.high, nodes[edge.target]});
    if (state.accepts) connect(nodes[i], end);
  }
  return end;
}

// Adds what can be reached without reading.
void RuleCompiler::close(Subset& subset) {
  for (const std::uint32_t node : subset) is_in_[node] = 1;
  for (std::size_t i = 0; i < subset.size(); ++i) {
    const Node& node = nodes_[subset[i]];
    work_ += 1 + node.empty.size();
    for (const std::uint32_t next : node.empty) {
      if (std::exchange(is_in_[next], 1) == 0) subset.push_back(next);
    }
  }
  for (const std::uint32_t node : subset) is_in_[node] = 0;
  if (work_ > kMostWork)
    throw Error(ErrorCode::kInvalidArgument, "the grammar is too large: its automaton takes too long to make");
  // What neither reads nor ends tells no subsets apart.
  std::erase_if(subset, [&](std::uint32_t node) {
    return node != end_ && nodes_[node].edges.empty() && nodes_[node].calls.empty();
  });
  std::sort(subset.begin(), subset.end());
}

std::uint32_t RuleCompiler::place_of(Subset subset) {
  close(subset);
  const auto [found, is_new] = places_.try_emplace(std::move(subset), static_cast<std::uint32_t>(subsets_.size()));
  if (is_new) subsets_.push_back(found->first);
  return found->second;
}

void RuleCompiler::add_edge(State& state, std::uint8_t byte, std::uint32_t target) const {
  if (!state.edges.empty() && state.edges.back().target == target && state.edges.back().high + 1 == byte) {
    state.edges.back().high = byte;
  } else {
    state.edges.push_back({byte, byte, target});
  }
}

// Bytes between two ends of edges lead to the same nodes.
void RuleCompiler::expand_bytes(const Subset& subset, State& out) {
  std::array<bool, 257> begins{};
  for (const std::uint32_t node : subset) {
    for (const Edge& edge : nodes_[node].edges) begins[edge.low] = begins[edge.high + std::size_t{1}] = true;
  }
  std::uint32_t target = 0;
  bool any = false;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (begins[byte]) {
      Subset next;
      for (const std::uint32_t node : subset) {
        for (const Edge& edge : nodes_[node].edges) {
          if (edge.low <= byte && byte <= edge.high) next.push_back(edge.target);
        }
        work_ += nodes_[node].edges.size();
      }
      std::sort(next.begin(), next.end());
      next.erase(std::unique(next.begin(), next.end()), next.end());
      any = !next.empty();
      if (any) target = place_of(std::move(next));
    }
    if (any && bytes_[byte]) add_edge(out, static_cast<std::uint8_t>(byte), target);
  }
}

void RuleCompiler::expand(std::uint32_t place) {
  const Subset subset = subsets_[place];
  State out;
  expand_bytes(subset, out);
  std::map<RuleId, Subset> calls;
  for (const std::uint32_t node : subset) {
    out.accepts = out.accepts || node == end_;
    for (const Call& call : nodes_[node].calls) calls[call.rule].push_back(call.target);
  }
  for (auto& [rule, targets] : calls) {
    std::sort(targets.begin(), targets.end());
    targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
    out.calls.push_back({rule, place_of(std::move(targets))});
  }
  states_.push_back(std::move(out));
}

std::vector<RuleCompiler::State> RuleCompiler::compile(ExpressionId id) {
  nodes_.clear();
  places_.clear();
  subsets_.clear();
  states_.clear();
  const std::uint32_t start = add_node();
  end_ = build(id, start);
  is_in_.assign(nodes_.size(), 0);
  place_of({start});
  while (states_.size() < subsets_.size()) expand(static_cast<std::uint32_t>(states_.size()));
  return std::move(states_);
}

}  // namespace metal_marlin

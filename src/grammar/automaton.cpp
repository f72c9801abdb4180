#include "grammar/automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "grammar/rule_compiler.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kMostStates = std::size_t{1} << 18;

using Compiled = RuleCompiler::State;

// The rules that can be reached, each compiled, by rule; the others are empty.
class Compilation {
 public:
  Compilation(const Rules& rules, const ByteSet& bytes) : rules_(rules), compiled_(rules.rule_count()) {
    RuleCompiler compiler(rules, bytes);
    std::vector<RuleId> open{rules.root()};
    std::vector<bool> is_known(rules.rule_count());
    is_known[rules.root()] = true;
    while (!open.empty()) {
      const RuleId rule = open.back();
      open.pop_back();
      if (!rules.is_defined(rule))
        throw Error(ErrorCode::kInvalidArgument, fmt::format("the rule {} is not defined", rules.name(rule)));
      compiled_[rule] = compiler.compile(rules.definition(rule));
      reached_.push_back(rule);
      count_ += compiled_[rule].size();
      if (count_ > kMostStates)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("the grammar is too large: more than {} states", kMostStates));
      for (const Compiled& state : compiled_[rule]) {
        for (const auto& call : state.calls) {
          if (!is_known[call.rule]) open.push_back(call.rule);
          is_known[call.rule] = true;
        }
      }
    }
    trim();
    refuse_left_recursion();
  }

  // Where a rule's states begin; kNoState for those of no text.
  [[nodiscard]] std::vector<StateId> places() const {
    std::vector<StateId> out(compiled_.size(), kNoState);
    StateId next = 0;
    for (const RuleId rule : reached_) {
      out[rule] = next;
      next += static_cast<StateId>(compiled_[rule].size());
    }
    return out;
  }
  [[nodiscard]] const std::vector<RuleId>& reached() const { return reached_; }
  [[nodiscard]] const std::vector<Compiled>& states(RuleId rule) const { return compiled_[rule]; }

 private:
  void trim();
  [[nodiscard]] std::vector<bool> states_with_end(RuleId rule, const std::vector<bool>& has_text) const;
  void refuse_left_recursion() const;
  [[nodiscard]] std::vector<bool> rules_with_empty_text() const;
  bool reaches_end_unread(RuleId rule, const std::vector<bool>& is_empty, std::vector<RuleId>* called) const;

  const Rules& rules_;
  std::vector<std::vector<Compiled>> compiled_;
  std::vector<RuleId> reached_;
  std::size_t count_ = 0;
};

// States of a rule from which an end can be reached through rules that are known to have texts.
std::vector<bool> Compilation::states_with_end(RuleId rule, const std::vector<bool>& has_text) const {
  const auto& states = compiled_[rule];
  std::vector<std::vector<std::uint32_t>> before(states.size());
  std::vector<std::uint32_t> open;
  std::vector<bool> out(states.size());
  for (std::uint32_t i = 0; i < states.size(); ++i) {
    for (const auto& edge : states[i].edges) before[edge.target].push_back(i);
    for (const auto& call : states[i].calls) {
      if (has_text[call.rule]) before[call.target].push_back(i);
    }
    if (states[i].accepts) open.push_back(i);
    out[i] = states[i].accepts;
  }
  while (!open.empty()) {
    const std::uint32_t at = open.back();
    open.pop_back();
    for (const std::uint32_t from : before[at]) {
      if (!out[from]) open.push_back(from);
      out[from] = true;
    }
  }
  return out;
}

// Takes out what leads to no end, and rules without a text.
void Compilation::trim() {
  std::vector<std::vector<RuleId>> callers(compiled_.size());
  for (const RuleId rule : reached_) {
    for (const Compiled& state : compiled_[rule]) {
      for (const auto& call : state.calls) {
        if (callers[call.rule].empty() || callers[call.rule].back() != rule) callers[call.rule].push_back(rule);
      }
    }
  }
  std::vector<bool> has_text(compiled_.size());
  std::vector<RuleId> open = reached_;
  std::size_t work = 0;
  while (!open.empty()) {
    const RuleId rule = open.back();
    open.pop_back();
    work += compiled_[rule].size();
    if (work > 64 * kMostStates)
      throw Error(ErrorCode::kInvalidArgument, "the grammar is too large: its rules call each other too often");
    if (has_text[rule] || !states_with_end(rule, has_text).front()) continue;
    has_text[rule] = true;
    open.insert(open.end(), callers[rule].begin(), callers[rule].end());
  }
  if (!has_text[rules_.root()]) throw Error(ErrorCode::kInvalidArgument, "the grammar has no text at all");
  std::erase_if(reached_, [&](RuleId rule) { return !has_text[rule]; });
  for (const RuleId rule : reached_) {
    const std::vector<bool> keep = states_with_end(rule, has_text);
    for (Compiled& state : compiled_[rule]) {
      std::erase_if(state.edges, [&](const auto& edge) { return !keep[edge.target]; });
      std::erase_if(state.calls, [&](const auto& call) { return !has_text[call.rule] || !keep[call.target]; });
    }
  }
}

// Whether a rule may end before a byte was read; and what it calls until then.
bool Compilation::reaches_end_unread(RuleId rule, const std::vector<bool>& is_empty,
                                     std::vector<RuleId>* called) const {
  const auto& states = compiled_[rule];
  std::vector<std::uint32_t> open{0};
  std::vector<bool> seen(states.size());
  seen[0] = true;
  bool ends = false;
  while (!open.empty()) {
    const Compiled& state = states[open.back()];
    open.pop_back();
    ends = ends || state.accepts;
    for (const auto& call : state.calls) {
      if (called != nullptr) called->push_back(call.rule);
      if (!is_empty[call.rule] || seen[call.target]) continue;
      seen[call.target] = true;
      open.push_back(call.target);
    }
  }
  return ends;
}

std::vector<bool> Compilation::rules_with_empty_text() const {
  std::vector<std::vector<RuleId>> callers(compiled_.size());
  for (const RuleId rule : reached_) {
    for (const Compiled& state : compiled_[rule]) {
      for (const auto& call : state.calls) callers[call.rule].push_back(rule);
    }
  }
  std::vector<bool> out(compiled_.size());
  std::vector<RuleId> open = reached_;
  while (!open.empty()) {
    const RuleId rule = open.back();
    open.pop_back();
    if (out[rule] || !reaches_end_unread(rule, out, nullptr)) continue;
    out[rule] = true;
    open.insert(open.end(), callers[rule].begin(), callers[rule].end());
  }
  return out;
}

void Compilation::refuse_left_recursion() const {
  const std::vector<bool> is_empty = rules_with_empty_text();
  std::vector<std::vector<RuleId>> first(compiled_.size());
  std::vector<std::size_t> callers(compiled_.size());
  for (const RuleId rule : reached_) {
    reaches_end_unread(rule, is_empty, &first[rule]);
    for (const RuleId called : first[rule]) ++callers[called];
  }
  // Rules that no other begins with go, until all are gone or a circle is left.
  std::vector<RuleId> open;
  std::size_t left = reached_.size();
  for (const RuleId rule : reached_) {
    if (callers[rule] == 0) open.push_back(rule);
  }
  while (!open.empty()) {
    const RuleId rule = open.back();
    open.pop_back();
    --left;
    for (const RuleId called : first[rule]) {
      if (--callers[called] == 0) open.push_back(called);
    }
  }
  if (left == 0) return;
  // What is left may also be called by a circle; going back from callers leads into it.
  const auto is_left = [&](RuleId rule) { return callers[rule] > 0; };
  RuleId at = *std::find_if(reached_.begin(), reached_.end(), is_left);
  for (std::size_t i = 0; i <= reached_.size(); ++i) {
    at = *std::find_if(reached_.begin(), reached_.end(), [&](RuleId caller) {
      return is_left(caller) && std::find(first[caller].begin(), first[caller].end(), at) != first[caller].end();
    });
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("the rule {} comes back to itself before it reads anything (left recursion)", rules_.name(at)));
}

}  // namespace

Automaton::Automaton(const Rules& rules, const ByteSet& bytes) {
  const Compilation compilation(rules, bytes);
  const std::vector<StateId> places = compilation.places();
  for (const RuleId rule : compilation.reached()) {
    const auto& states = compilation.states(rule);
    for (const Compiled& from : states) {
      State& to = states_.emplace_back();
      to.accepts = from.accepts;
      for (const auto& edge : from.edges) to.edges.push_back({edge.low, edge.high, places[rule] + edge.target});
      for (const auto& call : from.calls) {
        const Compiled& back = states[call.target];
        to.calls.push_back(
            {places[call.rule], places[rule] + call.target, back.accepts && back.edges.empty() && back.calls.empty()});
      }
    }
  }
  start_ = places[rules.root()];
}

std::size_t Automaton::memory() const {
  std::size_t out = 0;
  for (const State& state : states_)
    out += sizeof(State) + state.edges.capacity() * sizeof(ByteEdge) + state.calls.capacity() * sizeof(Call);
  return out;
}

}  // namespace metal_marlin

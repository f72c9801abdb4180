#include "grammar/alike_states.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "base/hash.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kMostAlikeStates = std::size_t{1} << 14;

// Whether a rule's end can be reached from a state without reading.
std::vector<bool> states_that_end(const Automaton& automaton) {
  std::vector<bool> out(automaton.size());
  for (bool changed = true; changed;) {
    changed = false;
    for (StateId id = 0; id < automaton.size(); ++id) {
      const Automaton::State& state = automaton.state(id);
      const bool ends = state.accepts || std::any_of(state.calls.begin(), state.calls.end(), [&](const auto& call) {
                          return out[call.start] && out[call.back];
                        });
      changed = changed || ends != out[id];
      out[id] = ends;
    }
  }
  return out;
}

// Classes of states, told apart by one byte more with each refinement.
class Classes {
 public:
  explicit Classes(const Automaton& automaton) : automaton_(automaton), ends_(states_that_end(automaton)) {
    of_.resize(automaton.size());
    members_.resize(2);
    for (StateId id = 0; id < automaton.size(); ++id) of_[id] = ends_[id] ? 1 : 0;
    for (const std::uint32_t each : of_) ++members_[each];
  }

  void refine() {
    std::unordered_map<std::vector<std::uint32_t>, std::uint32_t, Hash> found;
    std::vector<std::uint32_t> next(of_.size());
    std::vector<std::uint32_t> members;
    for (StateId id = 0; id < of_.size(); ++id) {
      const auto fresh = static_cast<std::uint32_t>(members.size());
      // What is alone stays so.
      next[id] = members_[of_[id]] == 1 ? fresh : found.try_emplace(signature(id), fresh).first->second;
      if (next[id] == fresh) members.push_back(0);
      ++members[next[id]];
    }
    of_ = std::move(next);
    members_ = std::move(members);
  }

  // The first state of each class stands for it.
  [[nodiscard]] std::vector<StateId> representatives() const {
    std::vector<StateId> first(members_.size(), kNoState);
    std::vector<StateId> out(of_.size());
    for (StateId id = 0; id < of_.size(); ++id) {
      if (first[of_[id]] == kNoState) first[of_[id]] = id;
      out[id] = first[of_[id]];
    }
    return out;
  }

 private:
  struct Hash {
    std::size_t operator()(const std::vector<std::uint32_t>& values) const {
      return hash_of(std::as_bytes(std::span(values)));
    }
  };

  [[nodiscard]] std::vector<std::uint32_t> signature(StateId id) const {
    const Automaton::State& state = automaton_.state(id);
    std::vector<std::uint32_t> out{of_[id]};
    for (const auto& edge : state.edges) {
      out.push_back(static_cast<std::uint32_t>(edge.low) << 8 | edge.high);
      out.push_back(of_[edge.target]);
    }
    out.push_back(state.accepts ? 1 : 0);
    for (const auto& call : state.calls) {
      // Where the called rule may be empty, no byte is between this state and the one behind the call.
      const bool is_near = ends_[call.start];
      out.push_back(call.start);
      out.push_back((call.is_last ? 1U : 0U) | (is_near ? 2U : 0U));
      out.push_back(is_near ? call.back : of_[call.back]);
    }
    return out;
  }

  const Automaton& automaton_;
  std::vector<bool> ends_;
  std::vector<std::uint32_t> of_;
  std::vector<std::uint32_t> members_;  // of each class, how many
};

}  // namespace

std::vector<std::vector<StateId>> alike_states(const Automaton& automaton, std::span<const std::uint32_t> depths) {
  if (automaton.size() > kMostAlikeStates) {
    std::vector<StateId> itself(automaton.size());
    std::iota(itself.begin(), itself.end(), 0);
    return std::vector(depths.size(), itself);
  }
  std::vector<std::vector<StateId>> out;
  Classes classes(automaton);
  std::uint32_t depth = 0;
  for (const std::uint32_t wanted : depths) {
    for (; depth < wanted; ++depth) classes.refine();
    out.push_back(classes.representatives());
  }
  return out;
}

}  // namespace metal_marlin

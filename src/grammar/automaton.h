// Rules as automata that call each other.
#pragma once

#include <bitset>
#include <cstdint>
#include <limits>
#include <vector>

#include "grammar/rules.h"

namespace metal_marlin {

using StateId = std::uint32_t;
constexpr StateId kNoState = std::numeric_limits<StateId>::max();

// The bytes that there are tokens for.
using ByteSet = std::bitset<256>;

// Each rule is a deterministic automaton over bytes and over calls of rules. From every state an end can be reached, by
// bytes of the set that it was made for; no rule comes back to itself before a byte was read.
class Automaton {
 public:
  struct ByteEdge {
    std::uint8_t low;
    std::uint8_t high;
    StateId target;
  };
  struct Call {
    StateId start;  // of the rule that is called
    StateId back;   // where to go on after it
    bool is_last;   // nothing can come after it: `back` accepts and leads nowhere
  };
  struct State {
    std::vector<ByteEdge> edges;  // ascending
    std::vector<Call> calls;
    bool accepts = false;
  };

  // \throws Error (kInvalidArgument) naming a rule that is not defined or that calls itself before it reads a byte;
  // where no text is left; past a limit.
  Automaton(const Rules& rules, const ByteSet& bytes);

  [[nodiscard]] StateId start() const { return start_; }
  [[nodiscard]] const State& state(StateId id) const { return states_[id]; }
  [[nodiscard]] std::size_t size() const { return states_.size(); }
  // About what it takes in memory.
  [[nodiscard]] std::size_t memory() const;

 private:
  std::vector<State> states_;
  StateId start_ = kNoState;
};

}  // namespace metal_marlin

// States of an automaton that short texts do not tell apart.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "grammar/automaton.h"

namespace metal_marlin {

// For each of the depths, which ascend: by state, one that does the same with all texts of so many bytes at most while
// they stay within its rule and what that calls. Most states of a long bounded repeat are alike. Large automata have
// each state stand for itself.
std::vector<std::vector<StateId>> alike_states(const Automaton& automaton, std::span<const std::uint32_t> depths);

}  // namespace metal_marlin

// What a Grammar is made of.
#pragma once

#include <memory>
#include <utility>

#include "grammar/automaton.h"
#include "grammar/rules.h"
#include "metal_marlin/grammar.h"

namespace metal_marlin {

struct Grammar::Impl {
  explicit Impl(Rules from) : rules(std::move(from)), automaton(std::make_shared<Automaton>(rules, ByteSet().set())) {}

  Rules rules;
  std::shared_ptr<const Automaton> automaton;  // over all bytes
};

}  // namespace metal_marlin

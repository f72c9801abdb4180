#include "grammar/stacks.h"

#include <algorithm>
#include <span>

#include "base/hash.h"

namespace metal_marlin {
namespace {

// Frames below each other that are made one; further down sets just hold both.
constexpr int kMostUnitedLevels = 64;

// One entry a state, the stacks united.
class PositionSet {
 public:
  explicit PositionSet(Stacks& stacks) : stacks_(stacks) {}
  // Whether that was new.
  bool add(Position position) {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Position& p) { return p.state == position.state; });
    if (found == all.end()) {
      all.push_back(position);
      return true;
    }
    return std::exchange(found->stack, stacks_.unite(found->stack, position.stack)) != found->stack;
  }
  std::vector<Position> all;

 private:
  Stacks& stacks_;
};

}  // namespace

std::size_t Stacks::Hash::operator()(const std::vector<Frame>& frames) const {
  return hash_of(std::as_bytes(std::span(frames)));
}

Stacks::Stacks() {
  intern({{kNoState, kBottom}});
}

StackId Stacks::intern(std::vector<Frame> frames) {
  const auto [found, is_new] = ids_.try_emplace(std::move(frames), static_cast<StackId>(sets_.size()));
  if (is_new) sets_.push_back(&found->first);
  return found->second;
}

// Where both have a frame of the same state, what is below is united in turn: so ambiguous texts take no more frames
// than there are states.
StackId Stacks::unite(StackId a, StackId b, int depth) {
  if (a == b) return a;
  const std::pair key = std::minmax(a, b);
  if (const auto known = unions_.find(key); known != unions_.end()) return known->second;
  std::vector<Frame> out(frames(a).begin(), frames(a).end());
  const std::vector<Frame> more(frames(b).begin(), frames(b).end());
  for (const Frame& frame : more) {
    const auto same = std::find_if(out.begin(), out.end(), [&](const Frame& f) { return f.back == frame.back; });
    if (same == out.end()) {
      out.push_back(frame);
    } else if (depth < kMostUnitedLevels) {
      same->below = unite(same->below, frame.below, depth + 1);
    } else if (std::find(out.begin(), out.end(), frame) == out.end()) {
      out.push_back(frame);
    }
  }
  std::sort(out.begin(), out.end());
  const StackId id = intern(std::move(out));
  unions_.emplace(key, id);
  return id;
}

Places close_places(const Automaton& automaton, Stacks& stacks, const std::vector<Position>& seeds) {
  Places out;
  PositionSet kernel(stacks);
  for (const Position& seed : seeds) kernel.add(seed);
  out.kernel = std::move(kernel.all);
  std::sort(out.kernel.begin(), out.kernel.end(),
            [](const Position& a, const Position& b) { return a.state < b.state; });
  PositionSet set(stacks);
  std::vector<StateId> open;
  const auto reach = [&](StateId state, StackId stack) {
    if (set.add({state, stack})) open.push_back(state);
  };
  for (const Position& position : out.kernel) reach(position.state, position.stack);
  while (!open.empty()) {
    const StateId id = open.back();
    open.pop_back();
    const StackId stack =
        std::find_if(set.all.begin(), set.all.end(), [&](const Position& p) { return p.state == id; })->stack;
    const Automaton::State& state = automaton.state(id);
    for (const Automaton::Call& call : state.calls)
      reach(call.start, call.is_last ? stack : stacks.push(call.back, stack));
    if (!state.accepts) continue;
    const std::vector<Stacks::Frame> frames(stacks.frames(stack).begin(), stacks.frames(stack).end());
    for (const Stacks::Frame& frame : frames) {
      if (frame.back == kNoState) {
        out.at_bottom = true;
      } else {
        reach(frame.back, frame.below);
      }
    }
  }
  for (const Position& position : set.all) {
    if (!automaton.state(position.state).edges.empty()) out.reading.push_back(position);
  }
  return out;
}

Places step_places(const Automaton& automaton, Stacks& stacks, const Places& from, std::uint8_t byte) {
  std::vector<Position> seeds;
  for (const Position& position : from.reading) {
    const auto& edges = automaton.state(position.state).edges;
    const auto edge = std::find_if(edges.begin(), edges.end(), [&](const auto& e) { return byte <= e.high; });
    if (edge != edges.end() && edge->low <= byte) seeds.push_back({edge->target, position.stack});
  }
  return close_places(automaton, stacks, seeds);
}

}  // namespace metal_marlin

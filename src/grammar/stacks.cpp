#include "grammar/stacks.h"

#include <algorithm>
#include <iterator>
#include <span>

#include "base/hash.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Frames below each other that are made one; further down sets just hold both.
constexpr int kMostUnitedLevels = 64;

Error too_ambiguous() {
  return {
      ErrorCode::kInvalidArgument,
      "the grammar is too ambiguous: its rules can share out a text in too many ways, as those can that repeat what "
      "may be empty"};
}

// One entry a state, the stacks united.
class PositionSet {
 public:
  explicit PositionSet(Stacks& stacks) : stacks_(stacks) {}
  // Whether that was new.
  bool add(Position position) {
    stacks_.work(1 + all.size());
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Position& p) { return p.state == position.state; });
    if (found == all.end()) {
      all.push_back(position);
      return true;
    }
    return std::exchange(found->stack, stacks_.unite(found->stack, position.stack)) != found->stack;
  }
  [[nodiscard]] StackId stack_of(StateId state) const {
    return std::find_if(all.begin(), all.end(), [&](const Position& p) { return p.state == state; })->stack;
  }
  std::vector<Position> all;

 private:
  Stacks& stacks_;
};

// Goes on from `reached` by calls and returns until nothing new is reached. \returns whether a stack was emptied.
bool close_over(const Automaton& automaton, Stacks& stacks, PositionSet& reached) {
  bool at_bottom = false;
  std::vector<StateId> open;
  std::unordered_map<StateId, std::vector<Stacks::Frame>> returned;  // by state: the frames that were gone back to
  const auto reach = [&](StateId state, StackId stack) {
    if (reached.add({state, stack})) open.push_back(state);
  };
  for (const Position& position : reached.all) open.push_back(position.state);
  while (!open.empty()) {
    const StateId id = open.back();
    open.pop_back();
    const StackId stack = reached.stack_of(id);
    const Automaton::State& state = automaton.state(id);
    for (const Automaton::Call& call : state.calls)
      reach(call.start, call.is_last ? stack : stacks.push(call.back, stack));
    if (!state.accepts) continue;
    const std::vector<Stacks::Frame> all(stacks.frames(stack).begin(), stacks.frames(stack).end());
    stacks.work(all.size());
    std::vector<Stacks::Frame> more;
    auto& known = returned[id];
    std::set_difference(all.begin(), all.end(), known.begin(), known.end(), std::back_inserter(more));
    known = all;
    for (const Stacks::Frame& frame : more) {
      if (frame.back == kNoState) {
        at_bottom = true;
      } else {
        reach(frame.back, frame.below);
      }
    }
  }
  return at_bottom;
}

}  // namespace

std::size_t Stacks::Hash::operator()(const std::vector<Frame>& frames) const {
  return hash_of(std::as_bytes(std::span(frames)));
}

Stacks::Stacks() {
  intern({{kNoState, kBottom}});
}

StackId Stacks::intern(std::vector<Frame> frames) {
  const auto [found, is_new] = ids_.try_emplace(std::move(frames), static_cast<StackId>(sets_.size()));
  if (!is_new) return found->second;
  sets_.push_back(&found->first);
  frame_count_ += found->first.size();
  if (frame_count() > kMostFrames) throw too_ambiguous();
  return found->second;
}

void Stacks::work(std::size_t count) {
  if (count > work_left_) throw too_ambiguous();
  work_left_ -= count;
}

// Where both have a frame of the same state, what is below is united in turn: so ambiguous texts take no more frames
// than there are states.
StackId Stacks::unite(StackId a, StackId b, int depth) {
  if (a == b) return a;
  const std::pair key = std::minmax(a, b);
  if (const auto known = unions_.find(key); known != unions_.end()) return known->second;
  std::vector<Frame> both;
  std::merge(frames(a).begin(), frames(a).end(), frames(b).begin(), frames(b).end(), std::back_inserter(both));
  work(both.size());
  std::vector<Frame> out;
  for (const Frame& frame : both) {
    if (out.empty() || out.back().back != frame.back || (depth >= kMostUnitedLevels && out.back() != frame)) {
      out.push_back(frame);
    } else {
      out.back().below = unite(out.back().below, frame.below, depth + 1);
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
  out.kernel = kernel.all;
  std::sort(out.kernel.begin(), out.kernel.end(),
            [](const Position& a, const Position& b) { return a.state < b.state; });
  PositionSet reached(stacks);
  for (const Position& position : out.kernel) reached.add(position);
  out.at_bottom = close_over(automaton, stacks, reached);
  for (const Position& position : reached.all) {
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

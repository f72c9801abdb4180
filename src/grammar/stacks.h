// The states that an automaton of rules may be in, each with what is to come after its rule.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/automaton.h"

namespace metal_marlin {

using StackId = std::uint32_t;

// Sets of stacks, which share what lies below: a set is the frames that may be on top. Equal sets have the same id.
// A text that may be read in very many ways has large ones. What is done with them is counted, so that it has an end.
class Stacks {
 public:
  struct Frame {
    StateId back;  // where to go on; kNoState: below is nothing
    StackId below;

    bool operator==(const Frame&) const = default;
    bool operator<(const Frame& other) const { return std::tie(back, below) < std::tie(other.back, other.below); }
  };
  static constexpr StackId kBottom = 0;  // the set of the empty stack alone

  Stacks();
  // Both throw Error (kInvalidArgument) where there are more than kMostFrames.
  StackId push(StateId back, StackId below) { return intern({{back, below}}); }
  StackId unite(StackId a, StackId b) { return unite(a, b, 0); }
  [[nodiscard]] std::span<const Frame> frames(StackId id) const { return *sets_[id]; }
  static constexpr std::size_t kMostFrames = std::size_t{1} << 22;  // in all sets, and unions: 64 MiB and more
  [[nodiscard]] std::size_t frame_count() const { return frame_count_ + unions_.size(); }
  // From here on so many frames and positions may be looked at.
  void begin_work(std::size_t most) { work_left_ = most; }
  // \throws Error (kInvalidArgument) where that is more than is left.
  void work(std::size_t count);
  [[nodiscard]] std::size_t work_left() const { return work_left_; }

 private:
  struct Hash {
    std::size_t operator()(const std::vector<Frame>& frames) const;
  };
  StackId intern(std::vector<Frame> frames);
  StackId unite(StackId a, StackId b, int depth);

  std::unordered_map<std::vector<Frame>, StackId, Hash> ids_;
  std::vector<const std::vector<Frame>*> sets_;  // the keys of ids_, which stay where they are
  std::map<std::pair<StackId, StackId>, StackId> unions_;
  std::size_t frame_count_ = 0;
  std::size_t work_left_ = 0;
};

// A state and the stacks below it.
struct Position {
  StateId state;
  StackId stack;

  bool operator==(const Position&) const = default;
};

// Where a text may have come to. `kernel`: right after its last byte, by state. `reading`: what comes of that by calls
// and returns, where there are bytes to read. `at_bottom`: a stack can be emptied here.
struct Places {
  std::vector<Position> kernel;
  std::vector<Position> reading;
  bool at_bottom = false;

  [[nodiscard]] bool is_dead() const { return reading.empty() && !at_bottom; }
};

// \param seeds in any order. \throws Error as Stacks::work().
Places close_places(const Automaton& automaton, Stacks& stacks, const std::vector<Position>& seeds);
// After a byte more.
Places step_places(const Automaton& automaton, Stacks& stacks, const Places& from, std::uint8_t byte);

}  // namespace metal_marlin

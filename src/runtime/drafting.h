// What proposers have in common that draw guesses in a session of their own.
#pragma once

#include <vector>

#include "metal_marlin/error.h"
#include "metal_marlin/model.h"
#include "runtime/proposer.h"

namespace metal_marlin {

// A sequence of that session, which is closed with it.
struct DraftedSequence : Proposer::Sequence {
  DraftedSequence(Session& of, SequenceId with) : session(of), id(with) {}
  // Only an id that is not open is an error, and this one is.
  ~DraftedSequence() override { session.close(id); }  // NOLINT(bugprone-exception-escape)

  Session& session;
  SequenceId id;
  bool failed = false;  // the session cannot hold it: there are no guesses
};

// Calls draw(std::vector<Drafting*>&), which draws a token for each, for those that have a sampler and room for a guess
// more, until there are none. A cache that is full ends it: the answers go on without.
template <typename Drafting, typename Draw>
void draw_in_turns(std::vector<Drafting>& all, const Draw& draw) {
  for (;;) {
    std::vector<Drafting*> in;
    for (Drafting& each : all) {
      if (each.sampler && static_cast<int>(each.request->guess.size()) < each.request->most) in.push_back(&each);
    }
    if (in.empty()) return;
    try {
      draw(in);
    } catch (const Error&) {
      for (Drafting* const each : in) each->sequence->failed = true;
      return;
    }
  }
}

}  // namespace metal_marlin

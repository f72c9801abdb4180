// The numbered places of an engine's samples, and what each held last. Of the cache it knows nothing.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "metal_marlin/engine.h"
#include "runtime/engine_sample.h"

namespace metal_marlin {

class EngineSlots {
 public:
  explicit EngineSlots(int count);

  // Whether the slot that a sample asks for is another's.
  [[nodiscard]] bool must_wait(const Sample& sample) const;
  // A free one for a sample, of which there must be one: that which it asks for, else that of the conversation that it
  // goes on with, else one that holds none, else the one whose conversation is the oldest.
  int take(const Sample& sample);
  // A slot's sample leaves the cache, which held so many of its tokens.
  void give_back(int slot, const Sample& sample, std::int64_t held);

  struct Conversation {
    std::vector<TokenId> tokens;
    std::string adapter;
    std::string fair_key;
  };
  // \throws Error (kInvalidArgument) where there is no such slot, (kBusy) where a sample has it.
  void require_idle(int slot) const;
  // Of an idle slot. \param fair_key whose it must be; empty: anybody's. \throws as require_idle(), (kNotFound).
  [[nodiscard]] const Conversation& conversation(int slot, const std::string& fair_key) const;
  void put(int slot, Conversation conversation);
  // Tokens at the beginning of an idle slot's conversation that another one holds too.
  [[nodiscard]] std::int64_t shared(int slot) const;

  [[nodiscard]] std::vector<EngineSlot> all() const;

 private:
  struct Slot {
    EngineSlot status;
    const Sample* sample = nullptr;  // that has it
    Conversation last;               // where none does
  };
  [[nodiscard]] const Slot& at(int slot) const { return slots_[static_cast<std::size_t>(slot)]; }
  [[nodiscard]] static int asked(const Sample& sample);

  std::vector<Slot> slots_;
};

}  // namespace metal_marlin

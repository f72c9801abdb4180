#include "runtime/engine_slots.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace metal_marlin {
namespace {

// Tokens that two sequences begin with alike.
std::int64_t common_beginning(std::span<const TokenId> a, std::span<const TokenId> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

EngineSlots::EngineSlots(int count) : slots_(static_cast<std::size_t>(count)) {
  for (int i = 0; i < count; ++i) slots_[static_cast<std::size_t>(i)].status.id = i;
}

// Of several samples the first alone asks.
int EngineSlots::asked(const Sample& sample) {
  return sample.index() == 0 ? sample.asked().slot : -1;
}

bool EngineSlots::must_wait(const Sample& sample) const {
  return asked(sample) >= 0 && at(asked(sample)).sample != nullptr;
}

int EngineSlots::take(const Sample& sample) {
  const auto rank = [&](const Slot& slot) {
    const auto held = static_cast<std::int64_t>(slot.last.tokens.size());
    const std::int64_t common =
        slot.last.adapter == sample.asked().adapter ? common_beginning(slot.last.tokens, sample.tokens()) : 0;
    const bool goes_on = 2 * common > held;  // most of what it held last is there: it is more than a common prompt
    return std::tuple(slot.status.id != asked(sample), slot.sample != nullptr, goes_on ? -common : 0, held > 0,
                      slot.status.since, slot.status.id);
  };
  Slot& taken =
      *std::min_element(slots_.begin(), slots_.end(), [&](const Slot& a, const Slot& b) { return rank(a) < rank(b); });
  taken.sample = &sample;
  taken.last = {};
  EngineSlot& status = taken.status;
  status.is_running = true;
  status.request = sample.request().id;
  status.adapter = sample.asked().adapter;
  status.fair_key = sample.asked().fair_key;
  status.prompt_tokens = sample.prompt_size();
  status.since = sample.request().submitted;
  return status.id;
}

void EngineSlots::give_back(int slot, const Sample& sample, std::int64_t held) {
  Slot& given = slots_[static_cast<std::size_t>(slot)];
  given.sample = nullptr;
  const auto tokens = sample.tokens().first(static_cast<std::size_t>(held));
  given.last = {{tokens.begin(), tokens.end()}, sample.asked().adapter, sample.asked().fair_key};
  given.status.is_running = false;
  given.status.cached_tokens = sample.usage.cached_tokens;
  given.status.generated_tokens = sample.usage.generated_tokens;
  given.status.tokens = held;
  given.status.since = std::chrono::steady_clock::now();
}

void EngineSlots::require_idle(int slot) const {
  if (slot < 0 || slot >= static_cast<int>(slots_.size()))
    throw Error(ErrorCode::kInvalidArgument, fmt::format("slot {}: there are 0 to {}", slot, slots_.size() - 1));
  if (at(slot).sample != nullptr) throw Error(ErrorCode::kBusy, fmt::format("slot {} runs a request", slot));
}

const EngineSlots::Conversation& EngineSlots::conversation(int slot, const std::string& fair_key) const {
  require_idle(slot);
  const Conversation& last = at(slot).last;
  if (!fair_key.empty() && !last.tokens.empty() && last.fair_key != fair_key)
    throw Error(ErrorCode::kNotFound, fmt::format("slot {} holds no conversation of this key", slot));
  return last;
}

void EngineSlots::put(int slot, Conversation conversation) {
  Slot& changed = slots_[static_cast<std::size_t>(slot)];
  changed.status = {};
  changed.status.id = slot;
  changed.status.adapter = conversation.adapter;
  changed.status.fair_key = conversation.fair_key;
  changed.status.tokens = static_cast<std::int64_t>(conversation.tokens.size());
  changed.status.since = std::chrono::steady_clock::now();
  changed.last = std::move(conversation);
}

std::int64_t EngineSlots::shared(int slot) const {
  const Conversation& own = at(slot).last;
  std::int64_t most = 0;
  for (const Slot& other : slots_) {
    if (other.status.id == slot || other.status.adapter != own.adapter) continue;
    const std::span<const TokenId> tokens = other.sample != nullptr ? other.sample->tokens() : other.last.tokens;
    most = std::max(most, common_beginning(own.tokens, tokens));
  }
  return most;
}

std::vector<EngineSlot> EngineSlots::all() const {
  std::vector<EngineSlot> out;
  for (const Slot& slot : slots_) {
    EngineSlot& status = out.emplace_back(slot.status);
    if (slot.sample == nullptr) continue;
    status.cached_tokens = slot.sample->usage.cached_tokens;
    status.generated_tokens = slot.sample->usage.generated_tokens;
  }
  return out;
}

}  // namespace metal_marlin

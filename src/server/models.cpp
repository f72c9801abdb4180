#include "server/models.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace metal_marlin::server {
namespace {

using ModelClock = std::chrono::steady_clock;

ApiError loading_ended() {
  return {503, "the server is shutting down", {}, "shutting_down"};
}

// Large blocks are mapped each by itself, and what is free at the end of a thread's memory is not kept: glibc raises
// both thresholds to tens of megabytes with the first large blocks that are freed, and keeps as much in every thread.
void keep_large_blocks_apart() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_TRIM_THRESHOLD, 256 << 10);
#endif
}

// What was freed goes back to the system: the allocator would keep what lies between what is still in use.
void give_memory_back() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace

Models::Models(std::function<void(const std::string&, const EngineStats&)> on_unload)
    : on_unload_(std::move(on_unload)) {
  keep_large_blocks_apart();
}

Models::~Models() {
  stop_loading();
  for (std::thread* const thread : {&thread_, &deadlines_}) {
    if (thread->joinable()) thread->join();
  }
  for (const auto& entry : entries_) entry->model.reset();  // tells who is still there, and takes their leases back
}

void Models::start(std::vector<ModelEntry> entries, const ModelLimits& limits) {
  limits_ = limits;
  for (ModelEntry& given : entries) {
    auto entry = std::make_unique<Entry>();
    entry->status.name = given.name;
    entry->status.created = std::time(nullptr);
    entry->status.pinned = given.pinned;
    entry->given = std::move(given);
    entries_.push_back(std::move(entry));
  }
  {
    Lock lock(mutex_);
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i]->given.pinned || entries_[i]->given.preload) note_loaded(*entries_[i], load_with_room(lock, i));
    }
  }
  thread_ = std::thread([this] { run(); });
  deadlines_ = std::thread([this] { watch_deadlines(); });
}

void Models::start(std::vector<ServedModel> models) {
  for (ServedModel& model : models) {
    auto entry = std::make_unique<Entry>();
    entry->given.name = entry->status.name = model.name;
    entry->given.adapters = model.info().adapters;
    entry->given.pinned = entry->status.pinned = true;
    entry->status.created = model.created;
    put(*entry, std::move(model));
    entries_.push_back(std::move(entry));
  }
}

std::size_t Models::find(const std::string& name) const {
  if (name.empty() && entries_.size() == 1) return 0;
  std::vector<std::string> known;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const std::size_t first = known.size();
    known.push_back(entries_[i]->given.name);
    known.insert(known.end(), entries_[i]->given.adapters.begin(), entries_[i]->given.adapters.end());
    if (std::find(known.begin() + static_cast<std::ptrdiff_t>(first), known.end(), name) != known.end()) return i;
  }
  if (name.empty())
    throw ApiError(400, fmt::format("model is missing, expected one of {}", fmt::join(known, ", ")), "model");
  throw ApiError(404, fmt::format("model {} is not served here; there is {}", name, fmt::join(known, ", ")), "model",
                 "model_not_found");
}

const ServedModel& Models::use(const std::string& name, ModelLeases& leases) {
  const std::lock_guard lock(mutex_);
  const std::size_t at = find(name);
  Entry& entry = *entries_[at];
  if (entry.state != State::kLoaded) throw ModelNotLoaded{at};
  leases.push_back(lease(at, true));
  const auto& adapters = entry.model->adapters;
  const auto adapter =
      std::find_if(adapters.begin(), adapters.end(), [&](const ServedModel& each) { return each.name == name; });
  return adapter == adapters.end() ? *entry.model : *adapter;
}

// The mutex is held. A lease is let go of in any thread, an engine's among them: the model goes in our own alone.
ModelLease Models::lease(std::size_t at, bool is_use) const {
  Entry& entry = *entries_[at];
  ++entry.users;
  if (is_use) entry.last_used = ModelClock::now();
  return {&*entry.model, [this, &entry, is_use](const ServedModel*) {
            const std::lock_guard lock(mutex_);
            --entry.users;
            if (is_use) entry.last_used = ModelClock::now();
            changed_.notify_all();
          }};
}

ModelStatus Models::status_of(const Entry& entry, const std::string& name) {
  constexpr const char* names[] = {"unloaded", "loading", "loaded", "unloading", "failed"};
  ModelStatus out = entry.status;
  out.state = names[static_cast<int>(entry.state)];
  if (name == entry.given.name) return out;
  out.name = name;
  out.parent = entry.given.name;
  return out;
}

ModelStatus Models::status(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const Entry& entry = *entries_[find(name)];
  return status_of(entry, name.empty() ? entry.given.name : name);
}

std::vector<ModelStatus> Models::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<ModelStatus> out;
  for (const auto& entry : entries_) {
    out.push_back(status_of(*entry, entry->given.name));
    for (const std::string& adapter : entry->given.adapters) out.push_back(status_of(*entry, adapter));
  }
  return out;
}

ModelLeases Models::loaded() const {
  const std::lock_guard lock(mutex_);
  ModelLeases out;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i]->state == State::kLoaded) out.push_back(lease(i, false));
  }
  return out;
}

std::uint64_t Models::wait_for(std::size_t entry, std::shared_ptr<ModelLeases> leases, Resume resume) {
  Lock lock(mutex_);
  if (stopping_) {
    lock.unlock();
    resume(loading_ended());
    return 0;
  }
  waiters_.push_back(
      {++last_waiter_, entry, ModelClock::now() + limits_.load_wait, std::move(leases), std::move(resume)});
  changed_.notify_all();
  return last_waiter_;
}

void Models::forget(std::uint64_t waiter) {
  std::vector<Waiter> gone;  // what they hold may take the mutex
  const std::lock_guard lock(mutex_);
  gone = take_waiters([&](const Waiter& each) { return each.id == waiter; });
  changed_.notify_all();
}

void Models::stop_loading() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

// ---- the thread that loads and unloads ----

void Models::run() {
  Lock lock(mutex_);
  while (!stopping_) {
    const bool is_asked = !waiters_.empty();
    const std::size_t next = is_asked ? waiters_.front().entry : 0;
    const auto idle = idle_one(ModelClock::now());
    if (const auto ready = ready_one()) {
      tell(lock, take_waiters([&](const Waiter& each) { return each.entry == *ready; }), std::nullopt);
    } else if (is_asked && has_room()) {
      load(lock, next);
    } else if (const auto least = is_asked ? least_used() : idle) {
      unload(lock, *least);
    } else {
      const auto oldest = limits_.idle_unload.count() > 0 ? least_used() : std::nullopt;
      if (oldest) {
        changed_.wait_until(lock, entries_[*oldest]->last_used + limits_.idle_unload);
      } else {
        changed_.wait(lock);
      }
    }
  }
}

// Apart from the thread that loads: who waits is told in time, however long that takes.
void Models::watch_deadlines() {
  Lock lock(mutex_);
  for (;;) {
    const auto now = ModelClock::now();
    if (stopping_) {
      return tell(lock, take_waiters([](const Waiter&) { return true; }), loading_ended());
    }
    auto late = take_waiters([&](const Waiter& each) { return each.deadline <= now; });
    if (!late.empty()) {
      tell(lock, std::move(late),
           ApiError(503,
                    fmt::format("the model was not loaded within {} s",
                                std::chrono::duration<double>(limits_.load_wait).count()),
                    "model", std::string(kModelLoading)));
      continue;
    }
    if (waiters_.empty()) {
      changed_.wait(lock);
    } else {                                            // all wait as long: who came first is first
      const auto deadline = waiters_.front().deadline;  // whose place may be gone while this waits
      changed_.wait_until(lock, deadline);
    }
  }
}

std::vector<Models::Waiter> Models::take_waiters(const std::function<bool(const Waiter&)>& which) {
  std::vector<Waiter> taken;
  std::vector<Waiter> left;
  for (Waiter& each : waiters_) (which(each) ? taken : left).push_back(std::move(each));
  waiters_ = std::move(left);
  return taken;
}

// Without an error the model is loaded, and stays so until they have it.
void Models::tell(Lock& lock, std::vector<Waiter> waiters, const std::optional<ApiError>& error) {
  if (waiters.empty()) return;
  if (!error) {
    for (const Waiter& each : waiters) each.leases->push_back(lease(each.entry, true));
  }
  lock.unlock();
  for (const Waiter& each : waiters) each.resume(error);
  waiters.clear();
  lock.lock();
}

std::optional<std::size_t> Models::ready_one() const {
  for (const Waiter& each : waiters_) {
    if (entries_[each.entry]->state == State::kLoaded) return each.entry;
  }
  return std::nullopt;
}

bool Models::has_room() const {
  if (limits_.max_loaded == 0) return true;
  const auto count =
      std::count_if(entries_.begin(), entries_.end(), [](const auto& entry) { return entry->state == State::kLoaded; });
  return count < limits_.max_loaded;
}

std::optional<std::size_t> Models::least_used() const {
  std::optional<std::size_t> least;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = *entries_[i];
    if (entry.state != State::kLoaded || entry.given.pinned || entry.users > 0) continue;
    if (!least || entry.last_used < entries_[*least]->last_used) least = i;
  }
  return least;
}

std::optional<std::size_t> Models::idle_one(ModelClock::time_point now) const {
  const auto least = limits_.idle_unload.count() > 0 ? least_used() : std::nullopt;
  return least && now - entries_[*least]->last_used >= limits_.idle_unload ? least : std::nullopt;
}

// Others may still be loaded beside it: their weights and caches are to fit too.
EngineOptions Models::share_for(std::size_t at) const {
  EngineOptions share;
  const int most = limits_.max_loaded > 0 ? std::min<int>(limits_.max_loaded, static_cast<int>(entries_.size()))
                                          : static_cast<int>(entries_.size());
  std::vector<std::size_t> others;
  int loaded = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i]->state == State::kLoaded) {
      ++loaded;
    } else if (i != at) {
      others.push_back(entries_[i]->given.weight_bytes);
    }
  }
  const int still = std::clamp(most - loaded - 1, 0, static_cast<int>(others.size()));
  std::partial_sort(others.begin(), others.begin() + still, others.end(), std::greater<>());
  for (int i = 0; i < still; ++i) share.memory_reserved += others[static_cast<std::size_t>(i)];
  share.memory_share = 1.0 / (still + 1);
  return share;
}

void Models::load(Lock& lock, std::size_t at) {
  Entry& entry = *entries_[at];
  entry.state = State::kLoading;
  std::optional<ServedModel> model;
  std::optional<ApiError> failed;
  bool was_left = false;  // nobody wanted it any more
  try {
    model.emplace(load_with_room(lock, at));
  } catch (const std::exception& error) {
    if (!lock.owns_lock()) lock.lock();
    const auto* const known = dynamic_cast<const Error*>(&error);
    was_left = known != nullptr && known->code() == ErrorCode::kCancelled;
    failed = ApiError(503, fmt::format("model {} cannot be loaded: {}", entry.given.name, error.what()), "model",
                      "model_failed");
  }
  if (model) {
    note_loaded(entry, std::move(*model));
  } else {
    lock.unlock();
    give_memory_back();
    lock.lock();
    entry.state = was_left ? State::kUnloaded : State::kFailed;
    if (was_left) return;  // who came since waits on, for the next try
    entry.status.failure = failed->what();
  }
  tell(lock, take_waiters([&](const Waiter& each) { return each.entry == at; }), failed);
}

// What requests call by its adapters' names is the model under another name.
void Models::put(Entry& entry, ServedModel model) {
  std::vector<ServedModel> adapters(entry.given.adapters.size(), model);
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    adapters[i].name = entry.given.adapters[i];
    adapters[i].parent = model.name;
  }
  model.adapters = std::move(adapters);
  entry.model = std::move(model);
  entry.state = State::kLoaded;
  entry.status.context = entry.model->engine->plan().context;
  entry.status.vocabulary = entry.model->vocabulary();
  entry.status.dimensions = entry.model->info().hidden;
}

void Models::note_loaded(Entry& entry, ServedModel model) {
  model.created = entry.status.created;
  put(entry, std::move(model));
  entry.status.failure.clear();
  ++entry.status.loads;
  entry.last_used = ModelClock::now();
}

// Where memory is short, models that nobody uses make room.
ServedModel Models::load_with_room(Lock& lock, std::size_t at) {
  const Entry& entry = *entries_[at];
  const auto goes_on = [&] {
    const std::lock_guard inner(mutex_);
    return !stopping_ && (!thread_.joinable() || std::any_of(waiters_.begin(), waiters_.end(), [&](const Waiter& each) {
      return each.entry == at && each.deadline > ModelClock::now();
    }));
  };
  for (;;) {
    const EngineOptions share = share_for(at);
    lock.unlock();
    try {
      ServedModel model = entry.given.load(goes_on, share);
      lock.lock();
      return model;
    } catch (const Error& error) {
      lock.lock();
      const auto least = least_used();
      if (error.code() != ErrorCode::kOutOfMemory || !least) throw;
      unload(lock, *least);
    }
  }
}

void Models::unload(Lock& lock, std::size_t at) {
  Entry& entry = *entries_[at];
  entry.state = State::kUnloading;
  std::optional<ServedModel> model = std::exchange(entry.model, std::nullopt);
  lock.unlock();
  on_unload_(entry.given.name, model->engine->stats());
  model.reset();
  give_memory_back();
  lock.lock();
  entry.state = State::kUnloaded;
  ++entry.status.unloads;
}

}  // namespace metal_marlin::server

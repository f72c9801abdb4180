#include "metal_marlin/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/memory.h"
#include "runtime/engine_hooks.h"
#include "runtime/engine_plan.h"
#include "runtime/engine_sample.h"
#include "runtime/engine_scheduler.h"
#include "runtime/event_delivery.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// The model's tokenizer, and what shows some of its special tokens.
constexpr std::size_t kMostVocabularies = 4;
// That a step may take once all were cancelled: whoever ends the process does not wait for what hangs.
constexpr std::chrono::milliseconds kLastStep{5000};

EngineOptions with_parallel(EngineOptions options, const EnginePlan& plan) {
  options.parallel = plan.parallel;
  return options;
}

}  // namespace

// Its threads hold it, so that one that hangs outlives the engine.
struct Engine::Impl : std::enable_shared_from_this<Engine::Impl> {
  // A request of which samples have not ended.
  struct Open {
    std::shared_ptr<Request> request;
    std::vector<bool> ended;
    int left;
  };
  // What is done between two steps for somebody who waits for it.
  struct Task {
    std::function<void()> action;
    std::exception_ptr error = {};
    bool is_done = false;
  };

  std::shared_ptr<const Model> model;
  EnginePlan plan;
  EngineOptions options;
  Hooks hooks;
  bool has_tokenizer;
  EngineScheduler scheduler;  // the step thread's
  std::mutex vocabulary_mutex;
  std::vector<std::shared_ptr<GrammarVocabulary>>
      vocabularies;  // of the tokenizers that requests with grammars had last

  std::mutex mutex;  // for all that follows
  std::condition_variable changed;
  std::condition_variable over;                     // the step thread is, for the watchdog
  std::vector<std::shared_ptr<Request>> submitted;  // not yet the scheduler's
  std::vector<std::shared_ptr<Task>> tasks;
  std::map<RequestId, Open> open;
  RequestId last_id = 0;
  std::int64_t refused = 0;
  EngineStats stats;
  std::vector<EngineSlot> slots;
  bool is_cancelling = false;  // a request's flag was set
  bool draining = false;
  bool stopping = false;
  bool stepping_ended = false;  // the step thread is over
  std::optional<Clock::time_point> step_began;
  std::chrono::milliseconds patience = options.hang_after;  // with a step
  std::string failure;

  EventDelivery delivery{[this] { wake_to_cancel(); }};
  std::thread step_thread;
  std::thread watchdog;

  Impl(std::shared_ptr<const Model> of, const EngineMemory& memory, const EngineOptions& with, Hooks faults)
      : model(std::move(of)),
        plan(plan_engine(model->info(), memory, with)),
        options(with_parallel(with, plan)),
        hooks(std::move(faults)),
        has_tokenizer(model->impl_->tokenizer != nullptr),
        scheduler(model, options, plan, hooks.before_step),
        stats(scheduler.stats()),
        slots(scheduler.slots()) {}

  void start() {
    step_thread = std::thread([self = shared_from_this()] { self->run_steps(); });
    try {
      watchdog = std::thread([self = shared_from_this()] { self->watch(); });
    } catch (...) {
      tell_to_stop();
      step_thread.join();
      throw;
    }
  }

  void tell_to_stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      for (const auto& [id, each] : open) each.request->cancelled = true;
    }
    changed.notify_all();
  }

  void shut_down() {
    tell_to_stop();
    watchdog.join();  // it waits for the step thread, and gives it up where it hangs
    bool ended = false;
    {
      const std::lock_guard lock(mutex);
      ended = stepping_ended;
    }
    if (ended) {
      step_thread.join();
    } else {
      step_thread.detach();
    }
    delivery.flush();
  }

  void wake_to_cancel() {
    {
      const std::lock_guard lock(mutex);
      is_cancelling = true;
    }
    changed.notify_all();
  }

  // ---- the step thread ----

  void run_steps() {
    std::string why;
    try {
      while (step()) {
      }
    } catch (const std::exception& error) {
      why = error.what();
    } catch (...) {
      why = "an unknown exception";
    }
    const std::lock_guard lock(mutex);
    stepping_ended = true;
    step_began.reset();
    if (!why.empty() && failure.empty()) delivery.push(fail("the engine's thread died: " + why));
    changed.notify_all();
    over.notify_all();
  }

  // Whether there is more to do.
  bool step() {
    std::vector<std::shared_ptr<Request>> added;
    std::vector<std::shared_ptr<Task>> begun;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] {
        return !submitted.empty() || !tasks.empty() || !scheduler.is_idle() || stopping || is_cancelling;
      });
      if (!failure.empty() || (stopping && submitted.empty() && scheduler.is_idle())) return false;
      added = std::exchange(submitted, {});
      begun = std::exchange(tasks, {});
      is_cancelling = false;
      step_began = Clock::now();
    }
    if (hooks.between_steps) hooks.between_steps();
    if (!begun.empty()) run_tasks(begun);
    for (const std::shared_ptr<Request>& request : added) scheduler.add(request);
    std::vector<OwnedEvent> events = scheduler.run();
    const EngineStats now = scheduler.stats();
    std::vector<EngineSlot> slots_now = scheduler.slots();
    {
      const std::lock_guard lock(mutex);
      step_began.reset();
      if (!failure.empty()) return false;  // they have got an error
      stats = now;
      slots.swap(slots_now);
      note_ends(events);
      delivery.push(std::move(events));
    }
    changed.notify_all();
    return true;
  }

  // Who waits for one is told before the step that follows.
  void run_tasks(const std::vector<std::shared_ptr<Task>>& begun) {
    for (const std::shared_ptr<Task>& task : begun) {
      try {
        task->action();
      } catch (...) {
        task->error = std::current_exception();
      }
    }
    {
      const std::lock_guard lock(mutex);
      slots = scheduler.slots();
      for (const std::shared_ptr<Task>& task : begun) task->is_done = true;
    }
    changed.notify_all();
  }

  void note_ends(const std::vector<OwnedEvent>& events) {
    for (const OwnedEvent& event : events) {
      if (!event.is_last()) continue;
      const auto found = open.find(event.request->id);
      found->second.ended[static_cast<std::size_t>(event.sample)] = true;
      if (--found->second.left == 0) open.erase(found);
    }
  }

  // ---- the watchdog ----

  void watch() {
    std::unique_lock lock(mutex);
    while (!stepping_ended && failure.empty()) {
      over.wait_for(lock, std::clamp<std::chrono::milliseconds>(patience / 4, 1ms, 1s));
      if (!step_began || Clock::now() - *step_began <= patience || !failure.empty()) continue;
      delivery.push(fail(fmt::format("a step of the engine hangs: it has taken more than {} ms", patience.count())));
      changed.notify_all();
    }
  }

  // Every open request gets an error. The mutex is held.
  std::vector<OwnedEvent> fail(const std::string& why) {
    failure = why;
    std::vector<OwnedEvent> events;
    for (auto& [id, each] : open) {
      for (std::size_t i = 0; i < each.ended.size(); ++i) {
        if (each.ended[i]) continue;
        OwnedEvent& event = events.emplace_back();
        event.request = each.request;
        event.sample = static_cast<int>(i);
        event.error = Error(ErrorCode::kInternal, why);
        event.usage.prompt_tokens = static_cast<std::int64_t>(each.request->asked.prompt.size());
        ++stats.failed;
      }
    }
    open.clear();
    submitted.clear();
    return events;
  }

  // ---- callers ----

  // \param shown none: the model's tokenizer.
  std::shared_ptr<GrammarVocabulary> vocabulary_of(const std::shared_ptr<const Tokenizer>& shown) {
    if (!has_tokenizer) throw Error(ErrorCode::kInvalidArgument, "a grammar needs a tokenizer, which the model lacks");
    const std::shared_ptr<const Tokenizer> tokenizer = shown ? shown : model->tokenizer();
    const std::lock_guard lock(vocabulary_mutex);
    for (const auto& each : vocabularies) {
      if (&each->tokenizer() == tokenizer.get()) return each;
    }
    if (vocabularies.size() == kMostVocabularies) vocabularies.erase(vocabularies.begin());
    vocabularies.push_back(std::make_shared<GrammarVocabulary>(tokenizer, model->info().vocab));
    return vocabularies.back();
  }

  // In the caller's thread, as a vocabulary and a grammar take their time.
  void add_guides(Request& request) {
    const EngineRequest& asked = request.asked;
    if (!asked.grammar) return;
    const std::span<const TokenId> guided = std::span(asked.prompt).last(asked.guided);
    const auto vocabulary = vocabulary_of(asked.tokenizer);
    for (int i = 0; i < asked.samples; ++i) {
      auto guide =
          std::make_unique<GrammarGuide>(vocabulary, asked.grammar, end_tokens(asked, model->info()), asked.thought);
      for (const TokenId id : guided) guide->take(id);
      request.guides.push_back(std::move(guide));
    }
  }

  RequestId submit(EngineRequest asked, OnEngineEvent on_event) {
    if (!on_event) throw Error(ErrorCode::kInvalidArgument, "request: there is nobody to tell of events");
    validate(asked, model->info(), plan.context, has_tokenizer);
    if (asked.slot < -1 || asked.slot >= plan.parallel) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("request: slot is {}, expected -1 to {}", asked.slot, plan.parallel - 1));
    }
    auto request = std::make_shared<Request>();
    request->asked = std::move(asked);
    request->on_event = std::move(on_event);
    request->submitted = Clock::now();
    add_guides(*request);
    const std::lock_guard lock(mutex);
    if (!failure.empty()) throw Error(ErrorCode::kInternal, failure);
    if (draining || stopping) throw Error(ErrorCode::kBusy, "the engine ends, and takes no more requests");
    const auto waiting =
        std::count_if(open.begin(), open.end(), [](const auto& each) { return !each.second.request->started; });
    if (waiting >= options.queue) {
      ++refused;
      throw Error(ErrorCode::kBusy, fmt::format("{} requests wait, the queue holds no more", waiting));
    }
    request->id = ++last_id;
    open.emplace(request->id, Open{request, std::vector<bool>(static_cast<std::size_t>(request->asked.samples)),
                                   request->asked.samples});
    submitted.push_back(request);
    changed.notify_all();
    return request->id;
  }

  // What the action refers to must be its own: nobody waits for a step that hangs.
  void between_steps(std::function<void()> action) {
    const auto task = std::make_shared<Task>(Task{std::move(action)});
    std::unique_lock lock(mutex);
    if (!failure.empty()) throw Error(ErrorCode::kInternal, failure);
    tasks.push_back(task);
    changed.notify_all();
    changed.wait(lock, [&] { return task->is_done || stepping_ended || !failure.empty(); });
    if (!task->is_done)
      throw failure.empty() ? Error(ErrorCode::kCancelled, "the engine ends") : Error(ErrorCode::kInternal, failure);
    // Taken, so that what is thrown ends where it is caught, whenever the engine's thread lets go of the task.
    if (const std::exception_ptr error = std::exchange(task->error, nullptr)) std::rethrow_exception(error);
  }

  void cancel(RequestId id) {
    const std::lock_guard lock(mutex);
    const auto found = open.find(id);
    if (found == open.end()) return;
    found->second.request->cancelled = true;
    is_cancelling = true;
    changed.notify_all();
  }

  bool drain(std::chrono::milliseconds deadline) {
    std::unique_lock lock(mutex);
    draining = true;
    const auto all_ended = [&] { return open.empty(); };
    const bool in_time = changed.wait_for(lock, std::min<std::chrono::milliseconds>(deadline, 10000h), all_ended);
    if (!in_time) {
      for (const auto& [id, each] : open) each.request->cancelled = true;
      is_cancelling = true;
      patience = std::min<std::chrono::milliseconds>(patience, kLastStep);
      changed.notify_all();
      changed.wait(lock, all_ended);
    }
    lock.unlock();
    delivery.flush();
    return in_time;
  }
};

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : Engine(std::move(model), options, Hooks{}) {}

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options, Hooks hooks) {
  if (options.speculation.any()) validate(options.speculation, *model);
  const Model::Impl& prepared = *model->impl_;
  // A layer that guesses has a cache of its own, of as many tokens.
  const Model::Impl* const layer =
      options.speculation.mtp && prepared.prediction ? prepared.prediction->impl_.get() : nullptr;
  const auto workspace = [&](int parallel) {
    const RunnerLimits limits = runner_limits(engine_session(options, parallel), 0);
    return prepared.prepared->workspace_bytes(limits, prepared.cache) +
           (layer != nullptr ? layer->prepared->workspace_bytes(limits, layer->cache) : 0);
  };
  const auto share = [&](std::size_t available) {
    const std::size_t left = available > options.memory_reserved ? available - options.memory_reserved : 0;
    return static_cast<std::size_t>(options.memory_share * static_cast<double>(left));
  };
  const EngineMemory memory{share(prepared.backend->available_memory()),
                            prepared.cache_page_bytes + (layer != nullptr ? layer->cache_page_bytes : 0),
                            prepared.most_cache_pages,
                            workspace,
                            hooks.memory_apart || prepared.backend->capabilities().memory_apart,
                            available_memory()};
  impl_ = std::make_shared<Impl>(std::move(model), memory, options, std::move(hooks));
  impl_->start();
}

Engine::~Engine() {
  impl_->shut_down();
}

RequestId Engine::submit(EngineRequest request, OnEngineEvent on_event) {
  return impl_->submit(std::move(request), std::move(on_event));
}

void Engine::prepare(const std::shared_ptr<const Grammar>& grammar, const std::shared_ptr<const Tokenizer>& tokenizer) {
  impl_->vocabulary_of(tokenizer)->masks(grammar);
}

void Engine::cancel(RequestId request) {
  impl_->cancel(request);
}

bool Engine::drain(std::chrono::milliseconds deadline) {
  return impl_->drain(deadline);
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  EngineStats out = impl_->stats;
  out.waiting += static_cast<int>(impl_->submitted.size());
  out.refused = impl_->refused;
  return out;
}

std::vector<EngineSlot> Engine::slots() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->slots;
}

SavedSequence Engine::save(int slot, const std::string& fair_key) {
  const auto saved = std::make_shared<SavedSequence>();
  impl_->between_steps([impl = impl_.get(), slot, fair_key, saved] { *saved = impl->scheduler.save(slot, fair_key); });
  return std::move(*saved);
}

std::int64_t Engine::restore(int slot, std::shared_ptr<const SavedSequence> saved, const std::string& fair_key) {
  const auto kept = std::make_shared<std::int64_t>();
  impl_->between_steps([impl = impl_.get(), slot, fair_key, saved = std::move(saved), kept] {
    *kept = impl->scheduler.restore(slot, *saved, fair_key);
  });
  return *kept;
}

std::int64_t Engine::erase(int slot, const std::string& fair_key) {
  const auto held = std::make_shared<std::int64_t>();
  impl_->between_steps([impl = impl_.get(), slot, fair_key, held] { *held = impl->scheduler.erase(slot, fair_key); });
  return *held;
}

const EnginePlan& Engine::plan() const {
  return impl_->plan;
}

const Model& Engine::model() const {
  return *impl_->model;
}

bool Engine::healthy() const {
  return failure().empty();
}

std::string Engine::failure() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->failure;
}

}  // namespace metal_marlin

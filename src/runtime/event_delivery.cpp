#include "runtime/event_delivery.h"

#include <utility>

namespace metal_marlin {

EventDelivery::EventDelivery(std::function<void()> on_throw)
    : on_throw_(std::move(on_throw)), thread_([this] { run(); }) {}

EventDelivery::~EventDelivery() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void EventDelivery::push(std::vector<OwnedEvent> events) {
  if (events.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    for (OwnedEvent& event : events) events_.push_back(std::move(event));
  }
  changed_.notify_all();
}

void EventDelivery::flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return events_.empty() && !delivering_; });
}

void EventDelivery::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !events_.empty() || stopping_; });
    if (events_.empty()) return;
    const OwnedEvent event = std::move(events_.front());
    events_.pop_front();
    delivering_ = true;
    lock.unlock();
    deliver(event);
    lock.lock();
    delivering_ = false;
    if (events_.empty()) changed_.notify_all();
  }
}

void EventDelivery::deliver(const OwnedEvent& event) {
  Request& request = *event.request;
  if (request.is_muted) return;
  try {
    request.on_event({event.sample, event.text, event.tokens, event.logprobs, event.prompt_logprobs, event.finished,
                      event.error, event.usage, event.stop_text});
  } catch (...) {  // whatever it was, it was the callback's
    request.is_muted = true;
    request.cancelled = true;
    on_throw_();
  }
}

}  // namespace metal_marlin

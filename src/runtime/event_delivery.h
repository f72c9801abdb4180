// Tells callbacks of events, in a thread of its own.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/engine_sample.h"

namespace metal_marlin {

class EventDelivery {
 public:
  // on_throw: called, in this thread, when a callback threw; the request is marked as cancelled then.
  explicit EventDelivery(std::function<void()> on_throw);
  // Delivers what is left.
  ~EventDelivery();
  EventDelivery(const EventDelivery&) = delete;
  EventDelivery& operator=(const EventDelivery&) = delete;

  void push(std::vector<OwnedEvent> events);
  // Waits until all that was pushed is delivered.
  void flush();

 private:
  void run();
  void deliver(const OwnedEvent& event);

  std::function<void()> on_throw_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<OwnedEvent> events_;
  bool delivering_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace metal_marlin

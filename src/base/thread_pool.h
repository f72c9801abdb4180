// A persistent pool. Threads spin briefly between pieces of work that follow
// each other closely and sleep in the kernel otherwise.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace metal_marlin {

// A borrowed callable; never allocates. The callable must outlive the call.
class TaskRef {
 public:
  TaskRef() = default;
  template <typename F>
  explicit TaskRef(const F& f)
      : object_(&f), call_([](const void* object, int thread) { (*static_cast<const F*>(object))(thread); }) {}
  void operator()(int thread) const { call_(object_, thread); }

 private:
  const void* object_ = nullptr;
  void (*call_)(const void*, int) = nullptr;
};

class ThreadPool {
 public:
  // threads: workers including the calling thread; 0 means one per usable core. \throws Error (kOutOfMemory)
  // when the system does not start so many.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs task(0..size()-1), one index per thread, and returns when all are done;
  // rethrows the first exception. The caller is thread 0. A call from inside a
  // task runs all indices inline.
  template <typename F>
  void run(const F& task) {
    run_task(TaskRef(task));
  }

  // Calls body(begin, end) over [0, n) in chunks of `grain`, taken dynamically.
  void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

  // Inside a task that every thread runs: waits until all of them arrive. Ends the task by an exception, which it
  // must let pass, when one of them has thrown.
  void barrier();

 private:
  void run_task(TaskRef task);
  void work(int index);
  void execute(int index);
  void fail(std::exception_ptr failure);
  void stop();

  std::vector<std::thread> workers_;
  std::mutex callers_;
  TaskRef task_;
  std::atomic<std::uint32_t> epoch_{0};
  std::atomic<std::uint32_t> running_{0};
  std::atomic<std::uint32_t> arrived_{0};
  std::atomic<std::uint32_t> barrier_epoch_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

// Cores this process may run on.
int usable_cores();

}  // namespace metal_marlin

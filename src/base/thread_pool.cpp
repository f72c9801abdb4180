#include "base/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// About 20 to 50 microseconds: longer than the gaps inside a decode step,
// shorter than anyone would call busy waiting.
constexpr int kSpins = 4000;

thread_local bool inside_task = false;

// Ends the task of a thread whose barrier another one, which has failed, will not reach.
struct LeftBarrier {};

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void wait_while_equal(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_cpu();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int threads) {
  const int count = threads > 0 ? threads : usable_cores();
  workers_.reserve(static_cast<std::size_t>(count - 1));
  try {
    for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const std::size_t started = workers_.size() + 1;
    stop();
    throw Error(ErrorCode::kOutOfMemory,
                fmt::format("the system starts {} of {} threads: {}", started, count, error.code().message()));
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stopping_.store(true, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::execute(int index) {
  inside_task = true;
  try {
    task_(index);
  } catch (const LeftBarrier&) {
  } catch (...) {
    fail(std::current_exception());
  }
  inside_task = false;
}

void ThreadPool::fail(std::exception_ptr failure) {
  {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_) failure_ = std::move(failure);
  }
  // Others may wait for this thread, which will not arrive.
  failed_.store(true, std::memory_order_release);
  barrier_epoch_.fetch_add(1, std::memory_order_release);
  barrier_epoch_.notify_all();
}

void ThreadPool::work(int index) {
  std::uint32_t seen = 0;
  while (true) {
    wait_while_equal(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_acquire)) return;
    execute(index);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_all();
  }
}

void ThreadPool::run_task(TaskRef task) {
  if (inside_task) {
    for (int i = 0; i < size(); ++i) task(i);
    return;
  }
  const std::lock_guard lock(callers_);
  task_ = task;
  running_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  execute(0);
  for (std::uint32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    wait_while_equal(running_, left);
  }
  if (!failed_.load(std::memory_order_acquire)) return;
  failed_.store(false, std::memory_order_relaxed);
  arrived_.store(0, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::parallel_for(std::int64_t n, std::int64_t grain,
                              const std::function<void(std::int64_t, std::int64_t)>& body) {
  std::atomic<std::int64_t> next{0};
  run([&](int) {
    for (std::int64_t begin = next.fetch_add(grain); begin < n; begin = next.fetch_add(grain)) {
      body(begin, std::min(begin + grain, n));
    }
  });
}

void ThreadPool::barrier() {
  const std::uint32_t epoch = barrier_epoch_.load(std::memory_order_acquire);
  if (failed_.load(std::memory_order_acquire)) throw LeftBarrier();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(size())) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_epoch_.fetch_add(1, std::memory_order_release);
    barrier_epoch_.notify_all();
    return;
  }
  wait_while_equal(barrier_epoch_, epoch);
  if (failed_.load(std::memory_order_acquire)) throw LeftBarrier();
}

}  // namespace metal_marlin

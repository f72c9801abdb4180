#include "cli/interrupts.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace metal_marlin::cli {
namespace {

constexpr unsigned kGraceSeconds = 2;

// Of signal handlers too, which may touch such alone.
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);
std::atomic<int> signals = 0;
std::atomic<bool> heard = false;  // somebody asked since the last one
std::atomic<bool> has_to_end = false;

[[noreturn]] void end_now() {
  constexpr char kText[] = "\ninterrupted\n";
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(kInterruptedCode);
}

void on_interrupt(int signal) {
  if (signal == SIGTERM) has_to_end = true;
  if (signals.fetch_add(1) > 0) end_now();
  heard = false;
  alarm(kGraceSeconds);
}

void on_grace_end(int) {
  if (signals > 0 && !heard) end_now();
}

void handle(int signal, void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void handle_interrupts() {
  // What is being printed goes on. Lines are waited for by poll, which is woken; whoever waits in a read is ended.
  handle(SIGINT, on_interrupt, SA_RESTART);
  handle(SIGTERM, on_interrupt, SA_RESTART);
  handle(SIGALRM, on_grace_end, SA_RESTART);
}

bool interrupted() {
  if (signals == 0) return false;
  heard = true;
  return true;
}

void forget_interrupt() {
  signals = 0;
}

bool terminated() {
  return has_to_end;
}

}  // namespace metal_marlin::cli

#include "chat_template/limits.h"

#include "chat_template/failure.h"

namespace metal_marlin::jinja {
namespace {

thread_local Budget* current_budget = nullptr;

}  // namespace

Budget::Budget() : before_(current_budget) {
  current_budget = this;
}

Budget::~Budget() {
  current_budget = before_;
}

Budget* Budget::current() {
  return current_budget;
}

void Budget::take(std::size_t bytes) {
  if (bytes > kMaxMemory - used_) {
    fail(FailureKind::kUnsupported, "values of more than {} MiB", kMaxMemory >> 20);
  }
  used_ += bytes;
  step(static_cast<std::int64_t>(bytes / 256));
}

void Budget::step(std::int64_t count) {
  steps_ += count;
  if (steps_ > kMaxSteps) fail(FailureKind::kUnsupported, "more than {} steps", kMaxSteps);
}

void check_size(std::size_t bytes) {
  if (bytes > kMaxMemory) fail(FailureKind::kUnsupported, "a value of more than {} MiB", kMaxMemory >> 20);
  if (current_budget == nullptr) return;
  current_budget->take(bytes);
  current_budget->give_back(bytes);
}

void charge(std::size_t bytes) {
  if (current_budget != nullptr) current_budget->step(static_cast<std::int64_t>(bytes / 256) + 1);
}

}  // namespace metal_marlin::jinja

// What rendering a template may take: templates come with models, and are not trusted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_marlin::jinja {

constexpr std::int64_t kMaxSteps = 20'000'000;              // nodes evaluated, and 256 bytes that a function looks at
constexpr std::size_t kMaxOutput = std::size_t{64} << 20;   // bytes of the prompt
constexpr std::size_t kMaxMemory = std::size_t{512} << 20;  // bytes of all values that are there at a time
constexpr int kMaxDepth = 400;                              // of expressions, blocks, calls and values
constexpr std::int64_t kMaxRange = 100'000;                 // numbers in a range, as the sandbox has it

// What a rendering has used; the values made on a thread are counted in its current budget.
class Budget {
 public:
  Budget();
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  static Budget* current();
  // \throws Failure when it is more than there may be.
  void take(std::size_t bytes);
  void give_back(std::size_t bytes) { used_ -= bytes; }
  void step(std::int64_t count = 1);

 private:
  std::size_t used_ = 0;
  std::int64_t steps_ = 0;
  Budget* before_;
};

// Refuses a value of so many bytes before anyone makes it.
void check_size(std::size_t bytes);
// Counts work in proportion to what a function looks at.
void charge(std::size_t bytes);

}  // namespace metal_marlin::jinja

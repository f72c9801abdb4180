#include "runtime/prompt_chunks.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace metal_marlin {
namespace {

constexpr double kDelay = 0.05;

// Steps of a machine on which a token of a prompt adds `each` seconds, and twice as much for every `slower` that came
// before. Returns the longest that a step took beyond one without prompts.
double longest_delay(double each, int prompt, double slower, int* steps = nullptr) {
  PromptChunks chunks{std::chrono::duration<double>(kDelay)};
  constexpr double kDecode = 0.02;
  chunks.record(4, 0, kDecode);
  double longest = 0;
  for (int done = 0; done < prompt;) {
    const int chunk = std::min(chunks.limit(true), prompt - done);
    EXPECT_GE(chunk, 1);
    const double added = chunk * each * (1 + done / slower);
    longest = std::max(longest, added);
    chunks.record(4, chunk, kDecode + added);
    done += chunk;
    if (steps != nullptr) ++*steps;
  }
  return longest;
}

TEST(PromptChunks, AStepIsNoLongerThanAllowed) {
  EXPECT_LE(longest_delay(0.0001, 20000, 1e9), 1.01 * kDelay);
  EXPECT_LE(longest_delay(0.002, 2000, 1e9), 1.01 * kDelay);
  EXPECT_LE(longest_delay(0.0003, 20000, 5000), 1.15 * kDelay);  // slower as the prompt grows
  EXPECT_LE(longest_delay(0.2, 30, 1e9), 16 * 0.2);              // only the first step does not know
}

TEST(PromptChunks, TheAllowanceIsUsed) {
  int steps = 0;
  longest_delay(0.0001, 20000, 1e9, &steps);
  EXPECT_LE(steps, 20000 / 500 + 8);  // 500 tokens fit, after a few steps
}

TEST(PromptChunks, WhereNobodyWaitsStepsAreLonger) {
  PromptChunks chunks{std::chrono::duration<double>(kDelay)};
  for (int i = 0; i < 12; ++i) chunks.record(0, chunks.limit(false), 0.001 * chunks.limit(false));
  EXPECT_NEAR(chunks.limit(false), 500, 1);
  EXPECT_NEAR(chunks.limit(true), 50, 1);
}

}  // namespace
}  // namespace metal_marlin

#include "base/child_process.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "test_data.h"

namespace metal_marlin {
namespace {

int run(const std::string& script, const std::function<void()>& prepare = {}) {
  return wait_for_process(start_process({"sh", "-c", script}, prepare), "sh");
}

TEST(ChildProcess, GivesItsExitCode) {
  EXPECT_EQ(run("exit 0"), 0);
  EXPECT_EQ(run("exit 7"), 7);
}

TEST(ChildProcess, IsPreparedBeforeItRuns) {
  const char* const name = "METAL_MARLIN_CHILD_TEST";
  EXPECT_EQ(run("test \"$METAL_MARLIN_CHILD_TEST\" = 'a b'", [&] { setenv(name, "a b", 1); }), 0);
  EXPECT_EQ(std::getenv(name), nullptr);  // here nothing has changed
}

TEST(ChildProcess, ThatCannotBeRunSaysSo) {
  EXPECT_EQ(wait_for_process(start_process({"/there/is/no/such/program"}), "it"), kCannotRun);
}

TEST(ChildProcess, EndedByASignalIsAnError) {
  expect_error(ErrorCode::kInternal, "sh: ended by signal 9", [] { run("kill -9 $$"); });
}

TEST(ChildProcess, OfAnotherCannotBeWaitedFor) {
  expect_error(ErrorCode::kIo, "cannot wait for parent", [] { wait_for_process(getppid(), "parent"); });
}

}  // namespace
}  // namespace metal_marlin

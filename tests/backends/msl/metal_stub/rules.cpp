#include "rules.h"

#include <gtest/gtest.h>

namespace metal_stub {

void end_of_objects();
void end_of_commands();

namespace {

std::vector<std::vector<std::string>>& expected() {
  static std::vector<std::vector<std::string>> all;
  return all;
}

class EndOfTest : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo&) override { end_of_test(); }
};

class Environment : public testing::Environment {
  void SetUp() override { testing::UnitTest::GetInstance()->listeners().Append(new EndOfTest); }
};
const testing::Environment* const environment = testing::AddGlobalTestEnvironment(new Environment);

}  // namespace

const char* rule_name(Rule rule) {
  switch (rule) {
    case Rule::kEncoderLife: return "encoder's life";
    case Rule::kCommandBuffer: return "command buffer's life";
    case Rule::kArgument: return "argument";
    case Rule::kBufferIndex: return "buffer index beyond 30";
    case Rule::kInlineBytes: return "bytes by value";
    case Rule::kThreadgroupBytes: return "threadgroup memory";
    case Rule::kOffset: return "offset's alignment";
    case Rule::kThreads: return "threads of a threadgroup";
    case Rule::kBarrier: return "barrier";
    case Rule::kFence: return "fence";
    case Rule::kPool: return "autorelease pool";
    case Rule::kLeak: return "leak";
    case Rule::kOverRelease: return "released too often";
    case Rule::kUseAfterRelease: return "use after release";
    case Rule::kFreedInFlight: return "freed in flight";
    case Rule::kResidency: return "residency";
    case Rule::kConstant: return "function constant";
    case Rule::kWork: return "work of a command buffer";
    case Rule::kMemory: return "memory";
    case Rule::kCompile: return "compilation";
    case Rule::kAvailable: return "availability";
    case Rule::kExecution: return "execution";
  }
  return "?";
}

void report(Rule rule, const std::string& what) {
  const Lock lock(mutex());
  const std::string text = std::string(rule_name(rule)) + ": " + what;
  if (expected().empty()) {
    ADD_FAILURE() << "Metal's rules, " << text;
  } else {
    expected().back().push_back(text);
  }
}

Expected::Expected() {
  const Lock lock(mutex());
  expected().emplace_back();
}
Expected::~Expected() {
  const Lock lock(mutex());
  expected().pop_back();
}
std::vector<std::string> Expected::found() const {
  const Lock lock(mutex());
  return expected().back();
}

Machine& machine() {
  static Machine one;
  return one;
}
Counts& counts() {
  static Counts all;
  return all;
}

void end_of_test() {
  const Lock lock(mutex());
  end_of_commands();
  end_of_objects();
  machine() = {};
  counts() = {};
}

}  // namespace metal_stub

#include "runtime/fair_queue.h"

#include <gtest/gtest.h>

#include <memory>

namespace metal_marlin {
namespace {

class Waiting {
 public:
  Sample& add(const std::string& key, int priority = 0) {
    auto request = std::make_shared<Request>();
    request->id = ++last_;
    request->asked.prompt = {1};
    request->asked.fair_key = key;
    request->asked.priority = priority;
    samples_.push_back(std::make_unique<Sample>(request, 0, ModelInfo{}, 100, nullptr));
    queue.enter(*samples_.back());
    queue.push(samples_.back().get());
    return *samples_.back();
  }
  // Takes the next one; it goes on for good after so many tokens.
  std::string take(std::int64_t tokens) {
    Sample* const next = queue.next([](const Sample&) { return true; });
    if (next == nullptr) return "";
    queue.remove(next);
    queue.serve(*next, tokens);
    return next->asked().fair_key + std::to_string(next->request().id);
  }
  FairQueue queue;

 private:
  RequestId last_ = 0;
  std::vector<std::unique_ptr<Sample>> samples_;
};

TEST(FairQueue, KeysTakeTurnsByTheTokensTheyHad) {
  Waiting w;
  for (int i = 0; i < 4; ++i) w.add("a");
  for (int i = 0; i < 4; ++i) w.add("b");
  EXPECT_EQ(w.take(10), "a1");
  EXPECT_EQ(w.take(30), "b5");
  EXPECT_EQ(w.take(10), "a2");
  EXPECT_EQ(w.take(20), "a3");
  EXPECT_EQ(w.take(10), "b6");
  EXPECT_EQ(w.take(10), "a4");
}

TEST(FairQueue, PriorityGoesBeforeFairness) {
  Waiting w;
  w.add("a", 1);
  w.add("b", 0);
  w.add("b", -1);
  EXPECT_EQ(w.take(1000), "b3");
  EXPECT_EQ(w.take(1000), "b2");
  EXPECT_EQ(w.take(1000), "a1");
  EXPECT_EQ(w.take(0), "");
}

TEST(FairQueue, AKeyThatComesLateIsOwedNothing) {
  Waiting w;
  w.add("a");
  w.add("a");
  w.add("a");
  EXPECT_EQ(w.take(1000), "a1");
  w.add("late");
  w.add("late");
  EXPECT_EQ(w.take(10), "a2");  // both had as much: who came first
  EXPECT_EQ(w.take(20), "late4");
  EXPECT_EQ(w.take(10), "a3");
}

TEST(FairQueue, WhoMayNotIsPassedOver) {
  Waiting w;
  Sample& first = w.add("a");
  Sample& second = w.add("a");
  EXPECT_EQ(w.queue.next([&](const Sample& sample) { return &sample != &first; }), &second);
}

}  // namespace
}  // namespace metal_marlin

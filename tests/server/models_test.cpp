// Models that come and go, without a server around them.
#include "server/models.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "runtime/engine_testing.h"

namespace metal_marlin::server {
namespace {

// Loads the same small model under every name, as slowly as a test wants.
class MadeModels {
 public:
  explicit MadeModels(std::vector<std::string> names, ModelLimits limits = {}) {
    std::vector<ModelEntry> entries;
    for (std::string& name : names) {
      ModelEntry entry;
      entry.name = name;
      if (name == "two") entry.adapters = {"two-a", "two-b"};
      entry.load = [this, name](const std::function<bool()>& goes_on, const EngineOptions& share) {
        shares.push_back(share);
        return load(name, goes_on);
      };
      entry.weight_bytes = 1000;
      entries.push_back(std::move(entry));
    }
    models.start(std::move(entries), limits);
  }

  // Asks as a request does; the future has what it is told.
  std::future<std::optional<ApiError>> ask(const std::string& name, const std::shared_ptr<ModelLeases>& leases) {
    auto told = std::make_shared<std::promise<std::optional<ApiError>>>();
    std::future<std::optional<ApiError>> out = told->get_future();
    try {
      models.use(name, *leases);
      told->set_value(std::nullopt);
    } catch (const ModelNotLoaded& missing) {
      waiter = models.wait_for(missing.entry, leases,
                               [told](std::optional<ApiError> error) { told->set_value(std::move(error)); });
    }
    return out;
  }
  [[nodiscard]] std::string state(const std::string& name) const { return models.status(name).state; }
  void wait_for_state(const std::string& name, const std::string& state_of) const {
    for (int i = 0; i < 5000 && state(name) != state_of; ++i) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(state(name), state_of);
  }

  WithTokenizer made;
  std::vector<EngineOptions> shares;
  std::atomic<bool> holds = false;  // what loads waits until nobody wants it
  std::atomic<int> given_up = 0;
  std::uint64_t waiter = 0;
  std::vector<std::string> unloaded;
  Models models{[this](const std::string& name, const EngineStats&) { unloaded.push_back(name); }};

 private:
  ServedModel load(const std::string& name, const std::function<bool()>& goes_on) {
    while (holds) {
      if (!goes_on()) {
        ++given_up;
        throw Error(ErrorCode::kCancelled, "loading was cancelled");
      }
      std::this_thread::sleep_for(1ms);
    }
    if (name == "broken") throw Error(ErrorCode::kCorruptFile, "it is broken");
    ServedModel served;
    served.name = name;
    served.tokenizer = made.model->tokenizer();
    served.engine = std::make_unique<Engine>(made.model, small(64, 1, 64));
    return served;
  }
};

TEST(Models, LoadingStopsWhenAllWhoWaitHaveGone) {
  MadeModels made({"one", "two"});
  made.holds = true;
  const auto leases = std::make_shared<ModelLeases>();
  const auto told = made.ask("one", leases);
  made.wait_for_state("one", "loading");
  made.models.forget(made.waiter);
  made.wait_for_state("one", "unloaded");
  EXPECT_EQ(made.given_up, 1);
  EXPECT_TRUE(leases->empty());
  made.holds = false;
  EXPECT_FALSE(made.ask("one", leases).get());
  EXPECT_EQ(made.state("one"), "loaded");
  EXPECT_EQ(leases->size(), 1U);
}

TEST(Models, WhoWaitsTooLongIsToldSoWhileItStillLoads) {
  MadeModels made({"one"}, {.load_wait = 50ms});
  made.holds = true;
  const auto error = made.ask("one", std::make_shared<ModelLeases>()).get();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->status, 503);
  EXPECT_EQ(error->code, kModelLoading);
  made.wait_for_state("one", "unloaded");
}

TEST(Models, AFailureIsToldToAllWhoWaitAndTheNextTriesAgain) {
  MadeModels made({"broken", "one"});
  made.holds = true;
  auto first = made.ask("broken", std::make_shared<ModelLeases>());
  auto second = made.ask("broken", std::make_shared<ModelLeases>());
  made.holds = false;
  for (auto* const told : {&first, &second}) {
    const auto error = told->get();
    ASSERT_TRUE(error);
    EXPECT_STREQ(error->what(), "model broken cannot be loaded: it is broken");
    EXPECT_EQ(error->code, "model_failed");
  }
  EXPECT_EQ(made.state("broken"), "failed");
  EXPECT_FALSE(made.ask("one", std::make_shared<ModelLeases>()).get());
  EXPECT_TRUE(made.ask("broken", std::make_shared<ModelLeases>()).get());
}

TEST(Models, TheLeastUsedMakesRoomOnceNobodyHasIt) {
  MadeModels made({"one", "two", "three"}, {.max_loaded = 2});
  const auto first = std::make_shared<ModelLeases>();
  const auto second = std::make_shared<ModelLeases>();
  EXPECT_FALSE(made.ask("one", first).get());
  EXPECT_FALSE(made.ask("two", second).get());
  auto third = made.ask("three", std::make_shared<ModelLeases>());
  EXPECT_EQ(third.wait_for(50ms), std::future_status::timeout);  // both are in use
  second->clear();
  EXPECT_FALSE(third.get());
  EXPECT_EQ(made.unloaded, std::vector<std::string>{"two"});
  EXPECT_EQ(made.state("one"), "loaded");
}

TEST(Models, AdaptersAreTheirModelUnderAnotherName) {
  MadeModels made({"one", "two"}, {.max_loaded = 1});
  const auto names = [&] {
    std::vector<std::array<std::string, 3>> out;
    for (const ModelStatus& status : made.models.all()) out.push_back({status.name, status.parent, status.state});
    return out;
  };
  using Names = std::vector<std::array<std::string, 3>>;
  EXPECT_EQ(names(), (Names{{"one", "", "unloaded"},
                            {"two", "", "unloaded"},
                            {"two-a", "two", "unloaded"},
                            {"two-b", "two", "unloaded"}}));
  EXPECT_EQ(made.models.status("two-b").parent, "two");
  const auto leases = std::make_shared<ModelLeases>();
  EXPECT_FALSE(made.ask("two-b", leases).get());
  EXPECT_EQ(leases->size(), 1U);
  ModelLeases more;
  const ServedModel& adapter = made.models.use("two-b", more);
  const ServedModel& model = made.models.use("two", more);
  EXPECT_EQ(adapter.name, "two-b");
  EXPECT_EQ(adapter.parent, "two");
  EXPECT_EQ(adapter.adapter(), "two-b");
  EXPECT_EQ(model.adapter(), "");
  EXPECT_EQ(adapter.engine, model.engine);
  EXPECT_EQ(made.models.status("two-a").context, model.engine->plan().context);
  EXPECT_EQ(made.models.loaded().size(), 1U);
  leases->clear();
  auto other = made.ask("one", std::make_shared<ModelLeases>());
  EXPECT_EQ(other.wait_for(50ms), std::future_status::timeout);  // who asked for the adapter has the model
  const std::weak_ptr<Engine> engine = model.engine;
  more.clear();
  EXPECT_FALSE(other.get());
  EXPECT_TRUE(engine.expired());
  EXPECT_EQ(made.unloaded, std::vector<std::string>{"two"});
  EXPECT_EQ(made.state("two-a"), "unloaded");
}

TEST(Models, MemoryIsSharedAmongThoseThatMayBeLoaded) {
  MadeModels made({"one", "two", "three"}, {.max_loaded = 2});
  EXPECT_FALSE(made.ask("one", std::make_shared<ModelLeases>()).get());
  EXPECT_FALSE(made.ask("two", std::make_shared<ModelLeases>()).get());
  ASSERT_EQ(made.shares.size(), 2U);
  EXPECT_EQ(made.shares[0].memory_reserved, 1000U);
  EXPECT_EQ(made.shares[0].memory_share, 0.5);
  EXPECT_EQ(made.shares[1].memory_reserved, 0U);
  EXPECT_EQ(made.shares[1].memory_share, 1);
}

TEST(Models, WhatWaitsAtTheEndIsToldSo) {
  std::future<std::optional<ApiError>> told;
  {
    MadeModels made({"one"});
    made.holds = true;
    told = made.ask("one", std::make_shared<ModelLeases>());
    made.wait_for_state("one", "loading");
  }
  const auto error = told.get();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, "shutting_down");
}

}  // namespace
}  // namespace metal_marlin::server

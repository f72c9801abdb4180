// What the engine's tests have in common.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "metal_marlin/engine.h"
#include "runtime/engine_hooks.h"
#include "test_data.h"

namespace metal_marlin {

// Engines whose steps fail, or that swap, as a test wants.
class EngineWithFaults {
 public:
  static std::unique_ptr<Engine> make(std::shared_ptr<const Model> model, const EngineOptions& options,
                                      std::function<void()> before_step, std::function<void()> between_steps = {}) {
    return std::unique_ptr<Engine>(
        new Engine(std::move(model), options, Engine::Hooks{std::move(before_step), std::move(between_steps)}));
  }
  // One that swaps, whatever its backend is.
  static std::unique_ptr<Engine> swapping(std::shared_ptr<const Model> model, const EngineOptions& options,
                                          std::function<void()> before_step = {}) {
    Engine::Hooks hooks;
    hooks.before_step = std::move(before_step);
    hooks.memory_apart = true;
    return std::unique_ptr<Engine>(new Engine(std::move(model), options, std::move(hooks)));
  }
};

using namespace std::chrono_literals;

inline std::shared_ptr<const Model> load_model(const std::filesystem::path& path, const std::string& cache = "") {
  LoadOptions options;
  options.exact = cache.empty();
  options.kv_cache = cache;
  options.threads = 1;  // small models: threads would wait for each other
  return Model::load(path, options);
}
inline std::shared_ptr<const Model> fixture_model(const std::string& name, const std::string& cache = "") {
  return load_model(test_data("fixtures") / name, cache);
}

// llama-tiny with a tokenizer whose first 256 tokens are the bytes, the others no text.
class WithTokenizer {
 public:
  WithTokenizer() {
    std::filesystem::copy(test_data("fixtures/llama-tiny"), folder_.path(), std::filesystem::copy_options::recursive);
    nlohmann::json vocabulary;
    int others = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      const int point = shown ? byte : others++;
      std::string name;
      if (point < 128) {
        name = static_cast<char>(point);
      } else {
        name = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
      }
      vocabulary[name] = byte;
    }
    nlohmann::json tokenizer;
    tokenizer["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}};
    tokenizer["pre_tokenizer"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    tokenizer["decoder"] = tokenizer["pre_tokenizer"];
    std::ofstream(folder_.path() / "tokenizer.json") << tokenizer.dump();
    model = load_model(folder_.path());
  }

 private:
  TemporaryFolder folder_;

 public:
  std::shared_ptr<const Model> model;
};

inline std::vector<TokenId> random_prompt(std::size_t count, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<TokenId> out(count);
  for (TokenId& id : out) id = static_cast<TokenId>(3 + random() % 200);
  return out;
}

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
  std::optional<StopReason> finished;
  std::optional<Error> error;
  EngineUsage usage;
  int events = 0;
};

// What came of one request.
class Answers {
 public:
  explicit Answers(int samples) : state_(std::make_shared<State>()) {
    state_->answers.resize(static_cast<std::size_t>(samples));
    state_->left = samples;
  }
  // also: called with each event after it was noted.
  [[nodiscard]] OnEngineEvent callback(std::function<void(const EngineEvent&)> also = {}) const {
    return [state = state_, also = std::move(also)](const EngineEvent& event) {
      {
        const std::lock_guard lock(state->mutex);
        Answer& answer = state->answers.at(static_cast<std::size_t>(event.sample));
        EXPECT_FALSE(answer.finished || answer.error) << "an event after the last";
        ++answer.events;
        answer.text += event.text;
        answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
        answer.logprobs.insert(answer.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
        answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                      event.prompt_logprobs.end());
        answer.finished = event.finished;
        answer.error = event.error;
        answer.usage = event.usage;
        if (event.is_last()) --state->left;
      }
      state->changed.notify_all();
      if (also) also(event);
    };
  }
  [[nodiscard]] std::vector<Answer> wait() const {
    std::unique_lock lock(state_->mutex);
    if (!state_->changed.wait_for(lock, 120s, [&] { return state_->left == 0; })) ADD_FAILURE() << "no answer";
    return state_->answers;
  }
  void wait_for_tokens(std::size_t count) const {
    std::unique_lock lock(state_->mutex);
    EXPECT_TRUE(state_->changed.wait_for(lock, 120s, [&] { return state_->answers[0].tokens.size() >= count; }));
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Answer> answers;
    int left = 0;
  };
  std::shared_ptr<State> state_;
};

inline Answers submit(Engine& engine, const EngineRequest& request, std::function<void(const EngineEvent&)> also = {}) {
  Answers answers(request.samples);
  engine.submit(request, answers.callback(std::move(also)));
  return answers;
}
inline Answer run(Engine& engine, const EngineRequest& request) {
  return submit(engine, request).wait().front();
}

inline EngineRequest request_of(std::vector<TokenId> prompt, int max_tokens) {
  EngineRequest out;
  out.prompt = std::move(prompt);
  out.max_tokens = max_tokens;
  out.ignore_end = true;
  return out;
}

inline EngineOptions small(std::int64_t context, int parallel, std::int64_t cache_tokens) {
  EngineOptions out;
  out.context = context;
  out.parallel = parallel;
  out.cache_tokens = cache_tokens;
  out.step_tokens = 64;
  return out;
}

// The engine has nothing to do, and what it had is given back.
inline void expect_all_given_back(Engine& engine) {
  EXPECT_TRUE(engine.drain(60s));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.cache.held, 0);
  EXPECT_EQ(stats.cache.shared, 0);
  EXPECT_EQ(stats.swapped, 0);
  EXPECT_EQ(stats.swapped_bytes, 0U);
  EXPECT_TRUE(engine.healthy()) << engine.failure();
}

// Lets steps go on until one, which waits.
class Pause {
 public:
  explicit Pause(int at) : at_(at) {}
  [[nodiscard]] std::function<void()> hook() {
    return [this] {
      std::unique_lock lock(mutex_);
      ++steps_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return steps_ != at_ || is_over_; });
    };
  }
  void wait_until_there() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return steps_ >= at_; });
  }
  void end() {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  }
  int steps() {
    const std::lock_guard lock(mutex_);
    return steps_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int at_;
  int steps_ = 0;
  bool is_over_ = false;
};

}  // namespace metal_marlin

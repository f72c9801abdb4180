// Sessions: sequences that come and go, what they share, and many of them side by side.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "backends/registry.h"
#include "base/hash.h"
#include "io/text_file.h"
#include "metal_marlin/model.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

std::shared_ptr<const Model> load(const std::filesystem::path& folder, const std::string& backend = "cpu") {
  LoadOptions options;
  options.exact = true;
  options.threads = 2;
  options.backend = backend;
  return Model::load(test_data("fixtures") / folder, options);
}

std::vector<TokenId> some_tokens(std::size_t count, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<TokenId> out(count);
  for (TokenId& id : out) id = static_cast<TokenId>(random() % 200);
  return out;
}

using Logits = std::vector<float>;

LogitsSink last_into(Logits& out) {
  return [&out](std::span<const LogitsRow> rows) { out.assign(rows.back().values.begin(), rows.back().values.end()); };
}

// The logits after all these tokens, in a session of their own.
Logits alone(const std::shared_ptr<const Model>& model, std::span<const TokenId> tokens) {
  Session session(model, {1, static_cast<std::int64_t>(tokens.size())});
  Logits out;
  session.step(std::array{SequenceInput{session.open(), tokens}}, last_into(out));
  return out;
}

double largest_difference(const Logits& a, const Logits& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(largest, std::fabs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

// The models that have every kind of layer.
constexpr std::array kModels = {"qwen3-tiny", "glm4-moe-lite-tiny"};

// Draws of several sequences in passes that cut them: those of samplers that are shown the logits.
class SampledSession : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, SampledSession, testing::ValuesIn(available_backends()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Sequences whose angles go by their lengths take steps together, whether a backend can rotate them in one or not.
TEST_P(SampledSession, LengthsMayDifferWhereAnglesGoByThem) {
  const TemporaryFolder work;
  const auto folder = work.path() / "dynamic";
  std::filesystem::copy(test_data("fixtures/qwen3-tiny"), folder);
  nlohmann::json config = nlohmann::json::parse(read_text_file(folder / "config.json"));
  config["rope_parameters"] = {{"rope_type", "dynamic"}, {"factor", 4.0}, {"rope_theta", 10000.0}};
  config["max_position_embeddings"] = 8;
  std::filesystem::remove(folder / "config.json");
  std::ofstream(folder / "config.json") << config.dump();
  const auto model = load(folder, GetParam());
  const std::vector<std::vector<TokenId>> prompts = {some_tokens(5, 1), some_tokens(33, 2), some_tokens(6, 3)};
  Session session(model, {3, 200, 64, 3});
  std::vector<SequenceInput> inputs;
  for (const auto& prompt : prompts) inputs.push_back({session.open(), prompt});
  std::vector<Logits> found(prompts.size());
  session.step(inputs, [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows)
      found[static_cast<std::size_t>(row.input)].assign(row.values.begin(), row.values.end());
  });
  for (std::size_t i = 0; i < prompts.size(); ++i)
    EXPECT_LT(largest_difference(found[i], alone(model, prompts[i])), 1e-4) << i;
}

TEST_P(SampledSession, DrawsAreThoseFromTheLogits) {
  const auto model = load("qwen3-tiny", GetParam());
  const std::vector<std::vector<TokenId>> prompts = {some_tokens(9, 1), some_tokens(23, 2), some_tokens(4, 3)};
  std::vector<Sampler> ours;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    SamplerOptions options;
    options.temperature = i == 0 ? 0.0F : 0.7F;
    options.top_k = i == 1 ? 20 : 0;
    options.top_p = i == 2 ? 0.9F : 1.0F;
    options.repeat_penalty = i == 1 ? 1.2F : 1.0F;
    options.seed = 70 + i;
    ours.emplace_back(options);
  }
  std::vector<Sampler> expected = ours;
  Session session(model, {3, 200, 12, 2});
  Session shown(model, {3, 200, 12, 2});
  std::vector<SequenceInput> inputs;
  std::vector<Sampler*> samplers;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    inputs.push_back({session.open(), prompts[i]});
    EXPECT_EQ(shown.open(), inputs.back().sequence);
    samplers.push_back(&ours[i]);
  }
  std::vector<TokenId> next(prompts.size());
  for (int step = 0; step < 6; ++step) {
    std::vector<TokenId> wanted(prompts.size());
    shown.step(inputs, [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows) {
        const auto input = static_cast<std::size_t>(row.input);
        wanted[input] = expected[input].sample(row.values);
      }
    });
    session.sample(inputs, samplers, next);
    EXPECT_EQ(next, wanted) << "step " << step;
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i].tokens = {&next[i], 1};
  }
  // Of a prompt of which more is to come nothing is drawn.
  samplers[1] = nullptr;
  const TokenId before = next[1];
  session.sample(std::span(inputs).first(2), std::span(samplers).first(2), std::span(next).first(2));
  EXPECT_GE(next[0], 0);
  EXPECT_EQ(next[1], -1);
  EXPECT_NE(before, -1);
}

TEST_P(SampledSession, WrongCallsAreRefused) {
  Session session(load("qwen3-tiny", GetParam()), {2, 64});
  const std::vector<TokenId> tokens = some_tokens(3);
  const std::array inputs{SequenceInput{session.open(), tokens}, SequenceInput{session.open(), tokens}};
  Sampler sampler({});
  std::array<Sampler*, 2> samplers{&sampler, &sampler};
  std::array<TokenId, 2> next{};
  expect_error(ErrorCode::kInvalidArgument, "input 1 has another's sampler",
               [&] { session.sample(inputs, samplers, next); });
  expect_error(ErrorCode::kInvalidArgument, "2 inputs, 1 samplers and room for 2 tokens",
               [&] { session.sample(inputs, std::span(samplers).first(1), next); });
  EXPECT_EQ(session.length(inputs[0].sequence), 0);
}

// Some inputs' logits are shown, among them those of a sampler that must see them, and other inputs' tokens drawn.
TEST_P(SampledSession, SomeAreDrawnAndOthersShown) {
  const auto model = load("qwen3-tiny", GetParam());
  const std::vector<std::vector<TokenId>> prompts = {some_tokens(9, 1), some_tokens(23, 2), some_tokens(4, 3)};
  Session session(model, {3, 200, 64, 16});
  SamplerOptions biased;
  biased.logit_bias = {{17, 1000.0F}};
  Sampler greedy({});
  Sampler sees(biased);
  const std::array<Sampler*, 3> samplers{&greedy, nullptr, &sees};
  std::vector<SequenceInput> inputs;
  for (const auto& prompt : prompts) inputs.push_back({session.open(), prompt, 21});
  std::array<TokenId, 3> next{};
  std::map<std::size_t, Logits> shown;
  session.sample(inputs, samplers, next, [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows) {
      EXPECT_EQ(row.input, 1);
      shown[row.token].assign(row.values.begin(), row.values.end());
    }
  });
  const Logits first = alone(model, prompts[0]);
  EXPECT_EQ(next[0], std::max_element(first.begin(), first.end()) - first.begin());
  EXPECT_EQ(next[1], -1);
  EXPECT_EQ(next[2], 17);
  ASSERT_EQ(shown.size(), 2U);
  EXPECT_LT(largest_difference(shown.at(22), alone(model, prompts[1])), 1e-3);
  EXPECT_LT(largest_difference(shown.at(21), alone(model, std::span(prompts[1]).first(22))), 1e-3);
}

// Tokens at a time, and other sequences beside them. METAL_MARLIN_TEST_STEPS: those that most is cut into take longest,
// and threads do no more in them than in few steps of many sequences.
std::vector<std::pair<int, int>> cuts_to_try() {
  if (std::getenv("METAL_MARLIN_TEST_STEPS") != nullptr) return {{33, 5}, {90, 3}};
  return {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 1}, {33, 5}, {90, 3}};
}

// With one_order: to the last bit, whatever the cuts, and whatever else is in a step.
TEST(Session, CutsLeaveNoTrace) {
  for (const char* const name : {"llama-tiny", "qwen3-window", "qwen3-moe", "glm4-moe-lite-tiny"}) {
    for (const bool exact : {true, false}) {
      LoadOptions load_options;
      load_options.exact = exact;
      load_options.kv_cache = exact ? "f32" : "int8";
      load_options.threads = 2;
      const auto model = Model::load(test_data("fixtures") / name, load_options);
      const std::vector<TokenId> tokens = some_tokens(90);
      const auto run = [&](std::size_t chunk, std::size_t others) {
        SessionOptions options{static_cast<int>(others) + 1, 8000, 512, 128};
        options.one_order = true;
        Session session(model, options);
        std::vector<SequenceId> ids(others + 1);
        for (SequenceId& id : ids) id = session.open();
        Logits out;
        for (std::size_t begin = 0; begin < tokens.size(); begin += chunk) {
          std::vector<SequenceInput> inputs;
          for (std::size_t i = 0; i < others; ++i)
            inputs.push_back({ids[i], std::span(tokens).subspan(begin % 20 + i, 1 + 5 * i), kNoLogits});
          inputs.push_back({ids.back(), std::span(tokens).subspan(begin, std::min(chunk, tokens.size() - begin)), 0});
          session.step(inputs, [&](std::span<const LogitsRow> rows) {
            for (const LogitsRow& row : rows) out.insert(out.end(), row.values.begin(), row.values.end());
          });
        }
        return out;
      };
      const Logits whole = run(tokens.size(), 0);
      for (const auto& [chunk, others] : cuts_to_try()) {
        EXPECT_EQ(run(static_cast<std::size_t>(chunk), static_cast<std::size_t>(others)), whole)
            << name << (exact ? " exact" : "") << " in chunks of " << chunk << " beside " << others;
      }
    }
  }
}

TEST(Session, CancelStopsAStepBetweenPasses) {
  const auto model = load("qwen3-tiny");
  Session session(model, {2, 200, 10});
  const SequenceId first = session.open();
  const SequenceId second = session.open();
  const std::vector<TokenId> tokens = some_tokens(35);
  int calls = 0;
  const LogitsSink sink = [&](std::span<const LogitsRow>) {
    if (++calls == 2) session.cancel();
  };
  expect_error(ErrorCode::kCancelled, "the step was cancelled", [&] {
    session.step(std::array{SequenceInput{first, tokens, 0}, SequenceInput{second, tokens, 0}}, sink);
  });
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(session.length(first), 20);
  EXPECT_EQ(session.length(second), 0);
  // The next step goes on from there, as if nothing had been.
  Logits found;
  session.step(std::array{SequenceInput{first, std::span(tokens).subspan(20)}, SequenceInput{second, tokens}}, {});
  EXPECT_EQ(session.length(second), 35);
  session.truncate(first, 34);
  session.step(std::array{SequenceInput{first, std::span(tokens).last(1)}}, last_into(found));
  EXPECT_LT(largest_difference(found, alone(model, tokens)), 1e-5);
}

TEST(Session, ACancelledSequenceIsPassedOverAndTheOthersGoOn) {
  const auto model = load("qwen3-tiny");
  Session session(model, {2, 200, 10});
  const SequenceId first = session.open();
  const SequenceId second = session.open();
  const std::vector<TokenId> tokens = some_tokens(35);
  Logits last;
  session.step(std::array{SequenceInput{first, tokens, 0}, SequenceInput{second, tokens}},
               [&](std::span<const LogitsRow> rows) {
                 session.cancel(first);
                 last.assign(rows.back().values.begin(), rows.back().values.end());
               });
  EXPECT_TRUE(session.is_cancelled(first));
  EXPECT_FALSE(session.is_cancelled(second));
  EXPECT_EQ(session.length(first), 10);
  EXPECT_EQ(session.length(second), 35);
  EXPECT_LT(largest_difference(last, alone(model, tokens)), 1e-5);
  session.step(std::array{SequenceInput{first, tokens}}, [](std::span<const LogitsRow>) { ADD_FAILURE(); });
  EXPECT_EQ(session.length(first), 10);
  session.close(first);
  session.cancel(first);  // too late: its place is another's
  const SequenceId third = session.open();
  session.cancel(first);
  session.cancel(third + 2);  // not yet there
  EXPECT_FALSE(session.is_cancelled(third));
  session.step(std::array{SequenceInput{third, tokens}}, {});
  EXPECT_EQ(session.length(third), 35);
  EXPECT_NE(third, first);
  expect_error(ErrorCode::kInvalidArgument, "is not open", [&] { static_cast<void>(session.length(first)); });
}

TEST(Session, LogitsComeForWhatAsksForThem) {
  const auto model = load("llama-tiny");
  Session session(model, {3, 300, 16, 4});
  const std::vector<TokenId> tokens = some_tokens(20);
  std::map<int, std::vector<std::size_t>> rows_of;
  session.step(std::array{SequenceInput{session.open(), tokens, kNoLogits}, SequenceInput{session.open(), tokens, 17},
                          SequenceInput{session.open(), tokens}},
               [&](std::span<const LogitsRow> rows) {
                 for (const LogitsRow& row : rows) rows_of[row.input].push_back(row.token);
               });
  EXPECT_EQ(rows_of, (std::map<int, std::vector<std::size_t>>{{1, {17, 18, 19}}, {2, {19}}}));
}

TEST(Session, TheCacheGrowsAsSequencesDo) {
  const auto model = load("llama-tiny");
  SessionOptions options;
  options.cache_tokens = 5000;
  Session session(model, options);
  EXPECT_EQ(session.cache_stats().limit, 313);
  EXPECT_EQ(session.cache_stats().pages, 64);
  const std::vector<TokenId> tokens = some_tokens(1100);
  const SequenceId sequence = session.open();
  session.step(std::array{SequenceInput{sequence, std::span(tokens).first(1000)}}, {});
  EXPECT_EQ(session.cache_stats().pages, 64);
  const std::vector<TokenId> many(4500, 1);
  expect_error(ErrorCode::kInvalidArgument, "the cache is full: 281 more pages of 16 tokens are needed, 250 are free",
               [&] {
                 session.step(std::array{SequenceInput{sequence, many}}, {});
               });
  EXPECT_EQ(session.length(sequence), 1000);
  Logits found;
  session.step(std::array{SequenceInput{sequence, std::span(tokens).subspan(1000)}}, last_into(found));
  EXPECT_EQ(session.cache_stats().pages, 128);
  EXPECT_EQ(session.cache_stats().held, 69);
  EXPECT_LT(largest_difference(found, alone(model, tokens)), 1e-4);
}

TEST(Session, ForksShareUntilTheyWrite) {
  for (const char* const name : kModels) {
    const auto model = load(name);
    Session session(model, {3, 300});
    const std::vector<TokenId> tokens = some_tokens(40);
    const SequenceId first = session.open();
    session.step(std::array{SequenceInput{first, tokens}}, {});
    const SequenceId second = session.fork(first);
    EXPECT_EQ(session.length(second), 40);
    EXPECT_EQ(session.cache_stats().held, 3);
    EXPECT_EQ(session.cache_stats().shared, 3);
    const std::vector<TokenId> one = some_tokens(9, 2);
    const std::vector<TokenId> other = some_tokens(9, 3);
    std::array<Logits, 2> found;
    session.step(std::array{SequenceInput{first, one}, SequenceInput{second, other}},
                 [&](std::span<const LogitsRow> rows) {
                   for (const LogitsRow& row : rows)
                     found[static_cast<std::size_t>(row.input)].assign(row.values.begin(), row.values.end());
                 });
    EXPECT_EQ(session.cache_stats().copied, 1);
    EXPECT_EQ(session.cache_stats().shared, 2);
    for (const auto& [added, logits] : {std::pair(one, found[0]), std::pair(other, found[1])}) {
      std::vector<TokenId> all = tokens;
      all.insert(all.end(), added.begin(), added.end());
      EXPECT_LT(largest_difference(logits, alone(model, all)), 1e-4) << name;
    }
    session.close(first);
    EXPECT_EQ(session.cache_stats().shared, 0);
  }
}

TEST(Session, ReusesWhatTheCacheStillHolds) {
  for (const char* const name : kModels) {
    const auto model = load(name);
    SessionOptions options;
    options.max_sequences = 2;
    options.cache_tokens = 160;
    options.prefix_cache = true;
    Session session(model, options);
    const std::vector<TokenId> tokens = some_tokens(48);
    const SequenceId first = session.open();
    EXPECT_EQ(session.reuse(first, tokens), 0);
    session.step(std::array{SequenceInput{first, tokens}}, {});
    const SequenceId second = session.open();
    EXPECT_EQ(session.reuse(second, tokens), 32);  // the last page would leave nothing to compute
    EXPECT_EQ(session.cache_stats().shared, 2);
    session.close(first);
    EXPECT_EQ(session.cache_stats().kept, 1);
    Logits found;
    session.step(std::array{SequenceInput{second, std::span(tokens).subspan(32)}}, last_into(found));
    EXPECT_LT(largest_difference(found, alone(model, tokens)), 1e-4) << name;
    // A beginning that others may look for is not written over.
    session.truncate(second, 20);
    const std::vector<TokenId> other = some_tokens(20, 4);
    session.step(std::array{SequenceInput{second, other}}, last_into(found));
    std::vector<TokenId> changed(tokens.begin(), tokens.begin() + 20);
    changed.insert(changed.end(), other.begin(), other.end());
    EXPECT_LT(largest_difference(found, alone(model, changed)), 1e-4) << name;
    EXPECT_EQ(session.cache_stats().copied, 1);
    session.close(second);
    const SequenceId third = session.open();
    EXPECT_EQ(session.reuse(third, tokens), 32);
    EXPECT_EQ(session.cache_stats().asked_tokens, 3 * 48);
    EXPECT_EQ(session.cache_stats().reused_tokens, 64);
    // Until the place is needed.
    session.close(third);
    const SequenceId fourth = session.open();
    session.step(std::array{SequenceInput{fourth, some_tokens(170, 5)}}, {});
    EXPECT_GT(session.cache_stats().evicted, 0);
    EXPECT_EQ(session.cache_stats().held, 11);
  }
}

TEST(Session, PagesOfGuessesAreFoundWhenTheyWereRight) {
  SessionOptions options;
  options.max_sequences = 2;
  options.prefix_cache = true;
  Session session(load("llama-tiny"), options);
  const std::vector<TokenId> tokens = some_tokens(40);
  std::vector<TokenId> wrong(tokens.begin(), tokens.begin() + 36);
  for (std::size_t i = 20; i < wrong.size(); ++i) wrong[i] = tokens[i] == 5 ? 6 : 5;
  const SequenceId first = session.open();
  session.step(std::array{SequenceInput{first, wrong, kNoLogits, 16}}, {});  // right as far as 20
  const SequenceId second = session.open();
  EXPECT_EQ(session.reuse(second, wrong), 16);
  session.close(second);
  session.truncate(first, 20);
  session.step(std::array{SequenceInput{first, std::span(tokens).subspan(20), kNoLogits, 8}}, {});
  EXPECT_EQ(session.cache_stats().copied, 0);  // the page that was cut was nobody else's
  session.truncate(first, 40);                 // all were right
  const SequenceId third = session.open();
  EXPECT_EQ(session.reuse(third, tokens), 32);
}

TEST(Session, MisuseIsNamed) {
  const auto model = load("llama-tiny");
  Session session(model, {1, 64});
  const SequenceId sequence = session.open();
  expect_error(ErrorCode::kInvalidArgument, "1 sequences are open, the session holds no more",
               [&] { session.fork(sequence); });
  expect_error(ErrorCode::kInvalidArgument, "no prefix cache", [&] { session.reuse(sequence, some_tokens(20)); });
  const std::vector<TokenId> tokens = some_tokens(3);
  expect_error(ErrorCode::kInvalidArgument, "appears twice", [&] {
    session.step(std::array{SequenceInput{sequence, tokens}, SequenceInput{sequence, tokens}}, {});
  });
  expect_error(ErrorCode::kInvalidArgument, "length is 4, expected 0 to 0", [&] { session.truncate(sequence, 4); });
  expect_error(ErrorCode::kInvalidArgument, "at least 1", [&] { Session(model, {0}); });
}

// Random steps of a session by a seed: sequences are opened, forked, cut, cancelled and closed between and within
// them. What comes out is kept, and what each sequence should hold.
class RandomSteps {
 public:
  RandomSteps(std::shared_ptr<const Model> model, std::uint32_t seed)
      : model_(std::move(model)), random_(seed), options_(options_for(seed)), session_(model_, options_) {}

  // A number for each step, of all its logits.
  std::vector<std::uint64_t> run(int steps) {
    std::vector<std::uint64_t> out;
    for (int i = 0; i < steps; ++i) {
      change();
      out.push_back(step());
    }
    return out;
  }

  // The sequences that are left go on as they do alone.
  void expect_as_alone() {
    for (auto& [sequence, tokens] : held_) {
      if (session_.is_cancelled(sequence)) continue;
      const std::vector<TokenId> more = random_tokens(1 + below(20));
      Logits found;
      session_.step(std::array{SequenceInput{sequence, more}}, last_into(found));
      tokens.insert(tokens.end(), more.begin(), more.end());
      EXPECT_LT(largest_difference(found, alone(model_, tokens)), 1e-3) << "sequence " << sequence;
    }
  }
  [[nodiscard]] Session& session() { return session_; }

 private:
  static constexpr std::size_t kSequences = 4;
  static constexpr std::size_t kLongest = 90;
  static SessionOptions options_for(std::uint32_t seed) {
    SessionOptions out;
    out.max_sequences = kSequences;
    out.cache_tokens = 4 * 160;
    out.batch_tokens = 24;
    out.batch_logits = 4;
    out.prefix_cache = seed % 2 == 0;
    return out;
  }
  std::size_t below(std::size_t n) { return random_() % n; }
  std::vector<TokenId> random_tokens(std::size_t count) {
    return some_tokens(count, static_cast<std::uint32_t>(random_()));
  }
  std::map<SequenceId, std::vector<TokenId>>::iterator any() {
    return std::next(held_.begin(), static_cast<std::ptrdiff_t>(below(held_.size())));
  }

  void change() {
    const std::size_t what = below(6);
    if (held_.empty() || (what == 0 && held_.size() < kSequences)) {
      const SequenceId opened = session_.open();
      const std::vector<TokenId> prompt = some_tokens(50, 1 + static_cast<std::uint32_t>(below(3)));
      const std::int64_t reused = options_.prefix_cache ? session_.reuse(opened, prompt) : 0;
      session_.step(std::array{SequenceInput{opened, std::span(prompt).subspan(static_cast<std::size_t>(reused))}}, {});
      held_[opened] = prompt;
    } else if (what == 1 && held_.size() < kSequences) {
      const auto from = any();
      held_[session_.fork(from->first)] = from->second;
    } else if (what == 2) {
      const auto cut = any();
      cut->second.resize(below(cut->second.size() + 1));
      session_.truncate(cut->first, static_cast<std::int64_t>(cut->second.size()));
    } else if (what == 3) {
      session_.cancel(any()->first);
    }
    for (auto each = held_.begin(); each != held_.end();) {
      const bool ends = session_.is_cancelled(each->first) || each->second.size() > kLongest;
      if (ends) session_.close(each->first);
      each = ends ? held_.erase(each) : std::next(each);
    }
  }

  std::uint64_t step() {
    std::vector<std::vector<TokenId>> added;
    std::vector<SequenceInput> inputs;
    for (const auto& [sequence, tokens] : held_) {
      if (below(3) == 0) continue;
      added.push_back(random_tokens(1 + below(below(4) == 0 ? 30 : 3)));
      inputs.push_back({sequence, {}, std::array{kLastLogits, kNoLogits, std::size_t{0}}[below(3)]});
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i].tokens = added[i];
    const std::size_t cancelled = inputs.empty() ? 0 : below(inputs.size());
    const std::size_t how = below(8);
    std::uint64_t sum = 0;
    const LogitsSink sink = [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows) {
        const std::array<std::uint64_t, 4> all{sum, static_cast<std::uint64_t>(row.input), row.token,
                                               hash_of(std::as_bytes(row.values))};
        sum = hash_of(std::as_bytes(std::span(all)));
      }
      if (how == 0) session_.cancel();
      if (how == 1) session_.cancel(inputs[cancelled].sequence);
    };
    try {
      session_.step(inputs, sink);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      std::vector<TokenId>& tokens = held_[inputs[i].sequence];
      const auto kept = session_.length(inputs[i].sequence) - static_cast<std::int64_t>(tokens.size());
      tokens.insert(tokens.end(), added[i].begin(), added[i].begin() + kept);
    }
    return sum;
  }

  std::shared_ptr<const Model> model_;
  std::mt19937 random_;
  SessionOptions options_;
  Session session_;
  std::map<SequenceId, std::vector<TokenId>> held_;
};

// ---- what is saved and restored ----------------------------------------------

// With and without a prefix cache, which still has some of it.
TEST(SavedSequences, GoOnToTheLastBit) {
  for (const char* const name : kModels) {
    const auto model = load(name);
    const std::vector<TokenId> tokens = some_tokens(37);
    const std::array<TokenId, 1> next{7};
    for (const bool prefix_cache : {false, true}) {
      Session session(model, {2, 80, 64, 1, prefix_cache});
      const SequenceId first = session.open();
      session.step(std::array{SequenceInput{first, tokens}}, {});
      const SavedSequence saved = session.save(first);
      EXPECT_EQ(saved.length, 37);
      EXPECT_EQ(saved.size, session.saved_bytes(first));
      Logits expected;
      session.step(std::array{SequenceInput{first, next}}, last_into(expected));
      session.close(first);
      const SequenceId other = session.open();
      session.step(std::array{SequenceInput{other, some_tokens(60, 2)}}, {});
      session.close(other);
      const SequenceId again = session.open();
      if (prefix_cache) {
        EXPECT_GT(session.reuse(again, tokens), 0);
      }
      session.restore(again, saved);
      EXPECT_EQ(session.length(again), 37);
      Logits found;
      session.step(std::array{SequenceInput{again, next}}, last_into(found));
      EXPECT_EQ(found, expected) << name << " " << prefix_cache;
      // Twice, beside a fork whose last page is shared and not full.
      session.truncate(again, 20);
      const SequenceId fork = session.fork(again);
      session.restore(fork, saved);
      session.step(std::array{SequenceInput{fork, next}}, last_into(found));
      EXPECT_EQ(found, expected) << name << " " << prefix_cache;
      EXPECT_EQ(session.length(again), 20);
    }
  }
}

TEST(SavedSequences, WrongOnesAreRefusedAndNothingIsChanged) {
  const auto model = load("qwen3-tiny");
  Session session(model, {2, 64, 64, 1, true});
  const SequenceId first = session.open();
  session.step(std::array{SequenceInput{first, some_tokens(50)}}, {});
  SavedSequence saved = session.save(first);
  const SequenceId other = session.open();
  session.step(std::array{SequenceInput{other, some_tokens(5, 2)}}, {});
  expect_error(ErrorCode::kInvalidArgument, "holds 5 tokens, expected a beginning of the 50 that were saved",
               [&] { session.restore(other, saved); });
  session.truncate(other, 0);
  expect_error(ErrorCode::kInvalidArgument, "the cache is full", [&] { session.restore(other, saved); });
  EXPECT_EQ(session.length(other), 0);
  session.close(first);
  saved.size -= 1;
  expect_error(ErrorCode::kInvalidArgument, "restore: 50 tokens were saved in", [&] { session.restore(other, saved); });
  saved.size += 1;
  session.restore(other, saved);
  EXPECT_EQ(session.length(other), 50);
}

// METAL_MARLIN_TEST_STEPS=1000 for the whole of it.
struct Size {
  std::uint32_t threads;
  int steps;
  std::vector<const char*> models;
};
Size size_for(const std::string& backend) {
  const std::vector<const char*> models(kModels.begin(), kModels.end());
  const char* const asked = std::getenv("METAL_MARLIN_TEST_STEPS");
  if (asked != nullptr) return {16, std::atoi(asked), models};
  return backend == "msl-host" ? Size{4, 2, {models.front()}} : Size{16, 40, models};
}

class ManyThreads : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, ManyThreads, testing::ValuesIn(available_backends()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(ManyThreads, SessionsOfOneModelDoAsTheyDoAlone) {
  const Size size = size_for(GetParam());
  for (const char* const name : size.models) {
    const auto model = load(name, GetParam());
    std::vector<std::vector<std::uint64_t>> together(size.threads);
    std::vector<std::thread> threads;
    for (std::uint32_t seed = 0; seed < size.threads; ++seed) {
      threads.emplace_back([&, seed] {
        RandomSteps random(model, seed);
        // Somebody who keeps cancelling what is not there.
        std::atomic<bool> done{false};
        std::thread late([&] {
          for (; !done; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
            random.session().cancel(-1);
            random.session().cancel(SequenceId{1} << 40);
          }
        });
        together[seed] = random.run(size.steps);
        random.expect_as_alone();
        done = true;
        late.join();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::uint32_t seed = 0; seed < size.threads; ++seed)
      EXPECT_EQ(RandomSteps(model, seed).run(size.steps), together[seed]) << name << " seed " << seed;
  }
}

}  // namespace
}  // namespace metal_marlin

// Guesses: that they change no distribution, how many there are, and where look-ups find them.
#include "runtime/speculation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine_testing.h"
#include "metal_marlin/generate.h"
#include "runtime/ngram_proposer.h"

namespace metal_marlin {
namespace {

// ---- distributions ----------------------------------------------------------

// Says the same whatever the tokens are.
class FixedProposer : public Proposer {
 public:
  explicit FixedProposer(std::vector<TokenId> guess) : guess_(std::move(guess)) {}
  std::unique_ptr<Sequence> begin() override { return std::make_unique<Sequence>(); }
  void propose(std::span<Request> requests) override {
    for (Request& request : requests) {
      const auto count = std::min(static_cast<std::size_t>(request.most), guess_.size());
      request.guess.assign(guess_.begin(), guess_.begin() + static_cast<std::ptrdiff_t>(count));
    }
  }
  [[nodiscard]] std::span<const double> expected() const override { return {&expected_, 1}; }
  [[nodiscard]] bool is_free() const override { return true; }

 private:
  std::vector<TokenId> guess_;
  double expected_ = 0.5;
};

constexpr TokenId kLetter = 'a';
constexpr int kVocabulary = 256;

// A model: what follows depends on the last token. The letters are likely.
std::vector<float> logits_after(TokenId last) {
  std::vector<float> out(kVocabulary, -60);
  for (int i = 0; i < 8; ++i)
    out[static_cast<std::size_t>(kLetter + i)] = std::sin(static_cast<float>(3 * last + 7 * i));
  return out;
}

// What a model, penalties, a temperature and a mask make of a text, without Sampler.
std::vector<double> distribution_after(const std::vector<TokenId>& prompt, const std::vector<TokenId>& answer,
                                       const SamplerOptions& options, const std::function<bool(TokenId)>& is_allowed) {
  std::vector<TokenId> all = prompt;
  all.insert(all.end(), answer.begin(), answer.end());
  const std::vector<float> logits = logits_after(all.back());
  std::vector<double> out;
  double sum = 0;
  for (TokenId id = 0; id < kVocabulary; ++id) {
    double x = static_cast<double>(logits[static_cast<std::size_t>(id)]);
    if (std::find(all.begin(), all.end(), id) != all.end())
      x = x > 0 ? x / static_cast<double>(options.repeat_penalty) : x * static_cast<double>(options.repeat_penalty);
    const auto times = std::count(answer.begin(), answer.end(), id);
    if (times > 0)
      x -= static_cast<double>(times) * static_cast<double>(options.frequency_penalty) +
           static_cast<double>(options.presence_penalty);
    out.push_back(is_allowed(id) ? std::exp(x / static_cast<double>(options.temperature)) : 0);
    sum += out.back();
  }
  for (double& p : out) p /= sum;
  return out;
}

struct Drawn {
  std::vector<TokenId> tokens;
  int steps = 0;
};

// Answers of `count` tokens of this model, by steps that check the guess.
class Drawing {
 public:
  Drawing(const std::vector<TokenId>& guess, std::vector<TokenId> prompt, const SamplerOptions& sampler)
      : prompt_(std::move(prompt)), sampler_(sampler), speculation_(options(), std::make_unique<FixedProposer>(guess)) {
    info_.vocab = kVocabulary;
  }
  void guide(std::shared_ptr<const Tokenizer> tokenizer, const std::shared_ptr<const Grammar>& grammar) {
    vocabulary_ = std::make_shared<GrammarVocabulary>(tokenizer, kVocabulary);
    grammar_ = grammar;
  }
  Drawn draw(std::uint64_t seed, int count) {
    auto request = std::make_shared<metal_marlin::Request>();
    request->asked = request_of(prompt_, count);
    request->asked.sampler = sampler_;
    request->asked.sampler.seed = seed;
    request->asked.grammar = grammar_;
    if (grammar_)
      request->guides.push_back(
          std::make_unique<GrammarGuide>(vocabulary_, grammar_, std::vector<TokenId>(), std::nullopt));
    Sample sample(request, 0, info_, 1024, nullptr);
    const auto sequence = speculation_.begin();
    Drawn out;
    while (!sample.has_ended()) {
      const std::array asked{Speculation::Request{sequence.get(), sample.tokens(),
                                                  static_cast<int>(sample.most_left()) - 1, &sample.sampler()}};
      speculation_.propose(asked, 1, 8);
      if (sequence->guessed() > 0) {
        const std::vector<TokenId> step(sequence->step().begin(), sequence->step().end());
        EXPECT_EQ(step.front(), sample.tokens().back());
        for (const TokenId id : step) sequence->check(sample, logits_after(id));
      } else {
        sample.draw_and_take(logits_after(sample.tokens().back()));
      }
      ++out.steps;
      speculation_.record(std::array{sequence.get()}, 1, 0);
    }
    const OwnedEvent event = sample.take_event();
    EXPECT_FALSE(event.error) << event.error->what();
    out.tokens = event.tokens;
    return out;
  }
  [[nodiscard]] const SpeculationStats& stats() const { return speculation_.stats(); }

 private:
  static SpeculationOptions options() {
    SpeculationOptions out;
    out.ngram = true;
    out.adapt = false;
    return out;
  }
  std::vector<TokenId> prompt_;
  SamplerOptions sampler_;
  ModelInfo info_;
  std::shared_ptr<GrammarVocabulary> vocabulary_;
  std::shared_ptr<const Grammar> grammar_;
  Speculation speculation_;
};

// Of counts that are distributed as expected: normal in good approximation (Wilson and Hilferty), so that values above
// 5 come once in millions.
double chi_square_deviation(const std::map<std::vector<TokenId>, int>& counts,
                            const std::map<std::vector<TokenId>, double>& expected, int total) {
  double chi = 0;
  double rare = 0;
  int rare_seen = total;
  int freedom = -1;
  for (const auto& [tokens, p] : expected) {
    const double n = p * total;
    const auto found = counts.find(tokens);
    const int seen = found == counts.end() ? 0 : found->second;
    if (n < 8) {
      rare += n;
      continue;
    }
    rare_seen -= seen;
    chi += (seen - n) * (seen - n) / n;
    ++freedom;
  }
  if (rare >= 1) {
    chi += (rare_seen - rare) * (rare_seen - rare) / rare;
    ++freedom;
  }
  const double k = freedom;
  return (std::cbrt(chi / k) - (1 - 2 / (9 * k))) / std::sqrt(2 / (9 * k));
}

// All answers of three tokens, and how likely each is.
std::map<std::vector<TokenId>, double> answers_of_three(const std::vector<TokenId>& prompt,
                                                        const SamplerOptions& options,
                                                        const std::function<bool(TokenId)>& is_allowed) {
  std::map<std::vector<TokenId>, double> out{{{}, 1.0}};
  for (int i = 0; i < 3; ++i) {
    std::map<std::vector<TokenId>, double> longer;
    for (const auto& [answer, p] : out) {
      const std::vector<double> next = distribution_after(prompt, answer, options, is_allowed);
      for (TokenId id = 0; id < kVocabulary; ++id) {
        const double with = p * next[static_cast<std::size_t>(id)];
        if (with < 1e-9) continue;
        std::vector<TokenId> tokens = answer;
        tokens.push_back(id);
        longer.emplace(std::move(tokens), with);
      }
    }
    out = std::move(longer);
  }
  return out;
}

constexpr int kDraws = 20000;

double deviation(Drawing& drawing, const std::map<std::vector<TokenId>, double>& expected) {
  std::map<std::vector<TokenId>, int> counts;
  for (std::uint64_t seed = 0; seed < kDraws; ++seed) ++counts[drawing.draw(seed, 3).tokens];
  return chi_square_deviation(counts, expected, kDraws);
}

SamplerOptions penalties(float temperature) {
  SamplerOptions out;
  out.temperature = temperature;
  out.repeat_penalty = 1.3F;
  out.frequency_penalty = 0.4F;
  out.presence_penalty = -0.3F;
  return out;
}

TEST(Speculation, AnswersAreDistributedAsTheModelSays) {
  const std::vector<TokenId> prompt{kLetter, kLetter + 1};
  const auto all = [](TokenId) { return true; };
  for (const float temperature : {0.4F, 1.0F, 1.7F}) {
    const SamplerOptions options = penalties(temperature);
    const auto expected = answers_of_three(prompt, options, all);
    for (const std::vector<TokenId>& guess :
         {std::vector<TokenId>{kLetter + 2, kLetter + 2}, {kLetter + 5, kLetter + 1}, {3, 4}}) {
      Drawing drawing(guess, prompt, options);
      EXPECT_LT(std::fabs(deviation(drawing, expected)), 5) << "temperature " << temperature << ", guess " << guess[0];
    }
    // The test finds another temperature.
    const auto wrong = answers_of_three(prompt, penalties(temperature * 1.3F), all);
    Drawing drawing({kLetter + 2, kLetter + 2}, prompt, options);
    EXPECT_GT(deviation(drawing, wrong), 5);
    EXPECT_GT(drawing.stats().accepted_tokens, 100);
  }
}

TEST(Speculation, AnswersOfAGrammarAreDistributedAsTheModelSays) {
  const WithTokenizer with;
  const std::vector<TokenId> prompt{kLetter, kLetter + 1};
  const auto allowed = [](TokenId id) { return id >= kLetter && id < kLetter + 4; };
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    const SamplerOptions options = penalties(temperature);
    Drawing drawing({kLetter + 2, kLetter + 1}, prompt, options);
    drawing.guide(with.model->tokenizer(), Grammar::from_regex("[a-d]{3}"));
    EXPECT_LT(std::fabs(deviation(drawing, answers_of_three(prompt, options, allowed))), 5) << temperature;
    EXPECT_GT(drawing.stats().accepted_tokens, 100);
  }
}

TEST(Speculation, TheSameSeedDrawsTheSameWhateverIsGuessed) {
  const std::vector<TokenId> prompt{kLetter, kLetter + 1};
  SamplerOptions options = penalties(1);
  options.top_p = 0.9F;
  options.min_p = 0.05F;
  options.top_k = 6;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Drawing without({}, prompt, options);
    const Drawn expected = without.draw(seed, 20);
    EXPECT_EQ(expected.steps, 20);
    Drawing right(std::vector<TokenId>(expected.tokens.begin(), expected.tokens.begin() + 5), prompt, options);
    const Drawn found = right.draw(seed, 20);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_LE(found.steps, 15);  // the first has six
    EXPECT_EQ(right.stats().accepted_at[0] > 0, true);
  }
}

// ---- models -----------------------------------------------------------------

GenerateOptions guessing(const std::shared_ptr<const Model>& draft, int count) {
  GenerateOptions out;
  out.max_tokens = count;
  out.ignore_end = true;
  out.speculation.ngram = draft == nullptr;
  out.speculation.draft = draft;
  out.speculation.adapt = false;
  return out;
}

GenerateOptions without(GenerateOptions options) {
  options.speculation = {};
  return options;
}

// The most likely token each time, over every fixture.
TEST(Speculation, GreedyAnswersAreEqualTokenForToken) {
  for (const auto& entry : std::filesystem::directory_iterator(test_data("fixtures"))) {
    const std::string name = entry.path().filename().string();
    const auto model = fixture_model(name);
    std::vector<TokenId> prompt = random_prompt(40);
    for (TokenId& id : prompt) id %= static_cast<TokenId>(model->info().vocab);
    const GenerateOptions ngram = guessing(nullptr, 60);
    const std::vector<TokenId> expected = generate(model, prompt, without(ngram)).tokens;
    EXPECT_EQ(generate(model, prompt, ngram).tokens, expected) << name;
    const GenerateResult drafted = generate(model, prompt, guessing(fixture_model(name, "int4"), 60));
    EXPECT_EQ(drafted.tokens, expected) << name;
    EXPECT_GT(drafted.speculation.accepted_tokens, 20) << name;
  }
}

TEST(Speculation, AModelIsItsOwnBestDraft) {
  const auto model = fixture_model("llama-tiny");
  for (const float temperature : {0.0F, 1.0F}) {
    GenerateOptions options = guessing(model, 61);
    options.speculation.tokens = 5;
    options.sampler.temperature = temperature;
    options.sampler.repeat_penalty = 1.2F;
    const GenerateResult result = generate(model, random_prompt(300), options);
    EXPECT_EQ(result.tokens, generate(model, random_prompt(300), without(options)).tokens);
    EXPECT_EQ(result.speculation.accepted_tokens, result.speculation.draft_tokens);
    EXPECT_LE(result.speculation.drafts, 11);  // six tokens a step, when the prompt was computed
  }
}

TEST(Speculation, StopsCancelsAndLengthsWithinAGuessHold) {
  const WithTokenizer with;
  GenerateOptions options = guessing(with.model, 40);
  const std::vector<TokenId> prompt = random_prompt(20);
  const GenerateResult whole = generate(with.model, prompt, without(options));
  for (int count = 0; count <= 12; ++count) {
    options.max_tokens = count;
    EXPECT_EQ(generate(with.model, prompt, options).tokens,
              std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + count));
  }
  options.max_tokens = 40;
  for (int calls = 1; calls < 12; ++calls) {
    int left = calls;
    const GenerateResult cut = generate(with.model, prompt, options, [&](std::string_view) { return --left > 0; });
    EXPECT_EQ(cut.reason, StopReason::kCancelled);
    EXPECT_EQ(left, 0);
    EXPECT_EQ(cut.tokens, std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + calls));
  }
  for (std::size_t at = 0; at + 2 < std::min<std::size_t>(whole.text.size(), 20); ++at) {
    options.stop = {whole.text.substr(at, 2)};
    const GenerateResult found = generate(with.model, prompt, options);
    const GenerateResult expected = generate(with.model, prompt, without(options));
    EXPECT_EQ(found.text, expected.text);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.reason, expected.reason);
  }
}

TEST(Speculation, GrammarsHoldWithinAGuess) {
  const WithTokenizer with;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    GenerateOptions options = guessing(with.model, 60);
    options.grammar = Grammar::from_regex("([ab]{3}-(cd)+;){2}");
    options.sampler.temperature = 1;
    options.sampler.seed = seed;
    const GenerateResult expected = generate(with.model, random_prompt(20), without(options));
    for (const bool ngram : {false, true}) {
      if (ngram) options.speculation = guessing(nullptr, 1).speculation;
      const GenerateResult found = generate(with.model, random_prompt(20), options);
      EXPECT_EQ(found.text, expected.text);
      EXPECT_EQ(found.reason, expected.reason);
    }
  }
}

TEST(Speculation, WhatCannotBeIsRefused) {
  const auto model = fixture_model("llama-tiny");
  const auto expect_refused = [&](const std::string& text, const SpeculationOptions& speculation) {
    EngineOptions options = small(64, 1, 64);
    options.speculation = speculation;
    expect_error(ErrorCode::kInvalidArgument, text, [&] { Engine(model, options); });
    GenerateOptions generation;
    generation.speculation = speculation;
    expect_error(ErrorCode::kInvalidArgument, text, [&] { generate(model, random_prompt(3), generation); });
  };
  SpeculationOptions none;
  none.ngram = true;
  none.tokens = 0;
  expect_refused("speculation: tokens is 0, expected 1 to 64", none);
  SpeculationOptions both;
  both.ngram = true;
  both.draft = model;
  expect_refused("both ngram and a draft model", both);
  const auto other = fixture_model("glm4-moe-lite-tiny");
  ASSERT_NE(other->info().vocab, model->info().vocab);
  for (const char* const part : {"the draft model ", "glm4-moe-lite-tiny has another vocabulary than ", "llama-tiny: "})
    expect_refused(part, guessing(other, 1).speculation);
}

// ---- how many ---------------------------------------------------------------

// A clock for steps of one sequence: seconds of a step, and how many tokens of its guess are right.
struct Simulation {
  double token_cost = 0.1;  // of a step's time, for each token that is guessed
  double share = 0.9;       // of tokens that are right, each

  std::mt19937 random{7};
  Speculation speculation{options(), std::make_unique<FixedProposer>(std::vector<TokenId>(8, 5))};
  std::unique_ptr<Speculation::Sequence> sequence = speculation.begin();

  static SpeculationOptions options() {
    SpeculationOptions out;
    out.ngram = true;
    return out;
  }
  // How much faster so many tokens come than without.
  double speed(int tokens) {
    EngineRequest asked = request_of({5}, tokens + 64);
    auto request = std::make_shared<metal_marlin::Request>();
    request->asked = asked;
    ModelInfo info;
    info.vocab = 16;
    Sample sample(request, 0, info, 1 << 20, nullptr);
    double seconds = 0;
    std::vector<float> logits(16);
    while (sample.usage.generated_tokens < tokens) {
      const std::array requests{Speculation::Request{sequence.get(), sample.tokens(), 8, &sample.sampler()}};
      speculation.propose(requests, 1, 8);
      const int guessed = sequence->guessed();
      const auto next = [&] {
        const bool right = std::uniform_real_distribution<>()(random) < share;
        logits.assign(16, 0);
        logits[right ? 5 : 6] = 1;
        return std::span<const float>(logits);
      };
      if (guessed == 0) sample.draw_and_take(next());
      for (int i = 0; guessed > 0 && i <= guessed; ++i) sequence->check(sample, next());
      const double noise = std::uniform_real_distribution<>(0.97, 1.1)(random);
      const double step = (1 + token_cost * guessed) * noise;
      seconds += step;
      speculation.record(std::array{sequence.get()}, 1, step);
    }
    return static_cast<double>(sample.usage.generated_tokens) / (seconds / 1.035);
  }
};

TEST(SpeculationControl, GuessesWhereItPays) {
  for (const double cost : {0.03, 0.1, 0.2}) {
    Simulation simulation;
    simulation.token_cost = cost;
    simulation.share = 0.95;
    EXPECT_GT(simulation.speed(2000), cost < 0.15 ? 2.5 : 2.0) << cost;
  }
}

TEST(SpeculationControl, IsNoLossWhereItDoesNotPay) {
  for (const double cost : {0.05, 0.3, 1.0}) {
    for (const double share : {0.0, 0.05, 0.3}) {
      Simulation simulation;
      simulation.token_cost = cost;
      simulation.share = share;
      EXPECT_GT(simulation.speed(200), 0.97) << cost << ", " << share;
      EXPECT_GT(simulation.speed(2000), 0.97) << cost << ", " << share;
    }
  }
}

TEST(SpeculationControl, TriesAgainAfterAWhile) {
  Simulation simulation;
  simulation.share = 0;
  simulation.speed(1000);
  simulation.share = 0.95;
  simulation.speed(400);
  EXPECT_GT(simulation.speed(1000), 2);
  simulation.token_cost = 2;  // the machine is busy with others
  EXPECT_GT(simulation.speed(1000), 0.96);
  simulation.token_cost = 0.1;
  simulation.speed(1000);
  EXPECT_GT(simulation.speed(1000), 2);
}

// ---- look-up ----------------------------------------------------------------

// The longest suffix that stands elsewhere too, at most so long.
std::size_t longest_elsewhere(const std::vector<TokenId>& tokens, std::size_t most) {
  std::size_t best = 0;
  for (std::size_t at = 1; at < tokens.size(); ++at) {
    std::size_t length = 0;
    while (length < at && length < most && tokens[at - 1 - length] == tokens[tokens.size() - 1 - length]) ++length;
    best = std::max(best, length);
  }
  return best;
}

TEST(NgramIndex, FindsTheLongestSuffix) {
  std::mt19937 random(3);
  for (const TokenId alphabet : {3, 30, 1000}) {
    NgramIndex index;
    std::vector<TokenId> tokens;
    for (int i = 0; i < 400; ++i) {
      // Now and then a piece of what was.
      const std::size_t count = tokens.size() > 40 && random() % 8 == 0 ? 5 + random() % 20 : 1;
      const std::size_t from = count > 1 ? random() % (tokens.size() - 30) : 0;
      for (std::size_t j = 0; j < count; ++j)
        tokens.push_back(count > 1 ? tokens[from + j]
                                   : static_cast<TokenId>(random() % static_cast<unsigned>(alphabet)));
      index.extend(tokens);
      const NgramIndex::Match match = index.find();
      const std::size_t longest = longest_elsewhere(tokens, 64);
      if (longest < 2) {
        EXPECT_EQ(match.length, 0U);
        continue;
      }
      ASSERT_GE(match.length, 2U);
      ASSERT_LT(match.at, tokens.size());
      for (std::size_t j = 1; j <= match.length; ++j) ASSERT_EQ(tokens[match.at - j], tokens[tokens.size() - j]);
      if (alphabet == 3) continue;  // pairs of few letters stand at too many places
      EXPECT_EQ(match.length, longest);
    }
  }
}

TEST(NgramProposer, GoesOnAsTheTextDid) {
  NgramProposer proposer;
  const auto sequence = proposer.begin();
  const auto guess = [&](const std::vector<TokenId>& tokens, int most) {
    std::array request{Proposer::Request{sequence.get(), tokens, most}};
    proposer.propose(request);
    return request[0].guess;
  };
  EXPECT_EQ(guess({1}, 4), std::vector<TokenId>{});
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 1, 2}, 3), (std::vector<TokenId>{3, 4, 5}));
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 1, 2, 9}, 3), std::vector<TokenId>{});
  EXPECT_EQ(guess({1, 2, 3, 4, 5, 1, 2, 9, 7, 8, 7, 8}, 5), (std::vector<TokenId>{7, 8, 7, 8, 7}));  // beyond the end
}

}  // namespace
}  // namespace metal_marlin

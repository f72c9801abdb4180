// What a model's layer for the next tokens gains, with guesses that are right as often as is said: everything is
// computed as it is when a model answers, but which guesses hold is drawn, so that random weights will do.
// prediction_benchmark MODEL [ACCEPTANCE] [GUESSES] [CONTEXT] [THREADS]
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <random>

#include "metal_marlin/error.h"
#include "metal_marlin/model.h"
#include "runtime/mtp_proposer.h"

namespace {

using namespace metal_marlin;

constexpr int kRounds = 9;
constexpr int kTokens = 40;  // of a round

class Answer {
 public:
  Answer(const std::shared_ptr<const Model>& model, std::size_t context, int guesses)
      : width_(static_cast<std::size_t>(model->info().hidden)),
        vocab_(model->info().vocab),
        session_(model, options(guesses)),
        sequence_(session_.open()),
        proposer_(*model, 1, static_cast<std::int64_t>(context) + 2 * kTokens + guesses, 512),
        predicted_(proposer_.begin()) {
    for (std::size_t i = 0; i <= context; ++i) tokens_.push_back(any());
    step(std::span(tokens_).first(context), context);
  }

  // \returns tokens a second of so many, each guess right with this probability; 0 guesses: one token a step.
  double speed(int guesses, double acceptance) {
    const std::size_t begin = tokens_.size();
    const auto start = std::chrono::steady_clock::now();
    while (tokens_.size() < begin + kTokens) {
      std::vector<TokenId> input{tokens_.back()};
      if (guesses > 0) {
        std::array request{Proposer::Request{predicted_.get(), tokens_, guesses, &sampler_}};
        proposer_.propose(request);
        input.insert(input.end(), request[0].guess.begin(), request[0].guess.end());
      }
      std::size_t own = 1;
      while (own < input.size() && std::uniform_real_distribution<>()(random_) < acceptance) ++own;
      step(input, own, guesses > 0);
      tokens_.insert(tokens_.end(), input.begin() + 1, input.begin() + static_cast<std::ptrdiff_t>(own));
      tokens_.push_back(any());
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return static_cast<double>(tokens_.size() - begin) / seconds;
  }

 private:
  SessionOptions options(int guesses) {
    SessionOptions out;
    out.batch_logits = guesses + 1;
    out.one_order = true;
    out.on_hidden = [this](const HiddenRows& rows) {
      hidden_.insert(hidden_.end(), rows.values.begin(), rows.values.end());
    };
    return out;
  }
  TokenId any() { return static_cast<TokenId>(random_() % static_cast<unsigned>(vocab_)); }
  // Computes tokens, of which the first `own` stay.
  void step(std::span<const TokenId> input, std::size_t own, bool is_seen = true) {
    const std::int64_t begin = session_.length(sequence_);
    hidden_.clear();
    session_.step(std::array{SequenceInput{sequence_, input, input.size() <= 64 ? 0 : kNoLogits}},
                  [](std::span<const LogitsRow>) {});
    session_.truncate(sequence_, begin + static_cast<std::int64_t>(own));
    if (is_seen) proposer_.see(*predicted_, tokens_, begin, std::span(hidden_).first(own * width_));
  }

  std::size_t width_;
  std::int64_t vocab_;
  std::mt19937 random_{7};
  std::vector<float> hidden_;
  Session session_;
  SequenceId sequence_;
  MtpProposer proposer_;
  std::unique_ptr<Proposer::Sequence> predicted_;
  Sampler sampler_{SamplerOptions{}};
  std::vector<TokenId> tokens_;
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    fmt::print(stderr, "prediction_benchmark MODEL [ACCEPTANCE] [GUESSES] [CONTEXT] [THREADS]\n");
    return 2;
  }
  const double acceptance = argc > 2 ? std::strtod(argv[2], nullptr) : 0.7;
  const int most = argc > 3 ? std::atoi(argv[3]) : 4;
  const std::size_t context = argc > 4 ? std::strtoul(argv[4], nullptr, 10) : 256;
  LoadOptions load;
  load.threads = argc > 5 ? std::atoi(argv[5]) : 0;
  load.prediction = true;
  const auto model = Model::load(argv[1], load);
  MtpProposer::require_prediction(*model);
  // In rounds over all lengths, so that a machine that slows down does so for each.
  std::vector<std::vector<double>> speeds(static_cast<std::size_t>(most) + 1);
  for (int round = 0; round < kRounds; ++round) {
    for (int guesses = 0; guesses <= most; ++guesses) {
      Answer answer(model, context, guesses);
      speeds[static_cast<std::size_t>(guesses)].push_back(answer.speed(guesses, acceptance));
    }
  }
  double without = 0;
  for (std::size_t i = 0; i < speeds.size(); ++i) {
    std::sort(speeds[i].begin(), speeds[i].end());
    const double median = speeds[i][kRounds / 2];
    if (i == 0) without = median;
    fmt::print("{} guesses {:8.2f} tokens/s  {:.2f}\n", i, median, median / without);
  }
  return 0;
} catch (const metal_marlin::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}

// What a step costs that checks guessed tokens, by how many tokens it has: verify_benchmark MODEL [CONTEXT] [THREADS].
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>

#include "metal_marlin/model.h"

namespace {

using namespace metal_marlin;

constexpr int kRounds = 25;
constexpr int kMostTokens = 16;

double step_seconds(Session& session, SequenceId sequence, std::span<const TokenId> tokens) {
  const std::int64_t length = session.length(sequence);
  const auto start = std::chrono::steady_clock::now();
  session.step(std::array{SequenceInput{sequence, tokens, 0}}, [](std::span<const LogitsRow>) {});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  session.truncate(sequence, length);
  return seconds;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "verify_benchmark MODEL [CONTEXT] [THREADS]\n");
    return 2;
  }
  const std::size_t context = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 256;
  LoadOptions load;
  load.threads = argc > 3 ? std::atoi(argv[3]) : 0;
  const auto model = Model::load(argv[1], load);
  SessionOptions options;
  options.batch_logits = kMostTokens;
  options.one_order = true;
  Session session(model, options);
  const SequenceId sequence = session.open();
  std::vector<TokenId> tokens(std::max<std::size_t>(context, kMostTokens));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<TokenId>((i * 7919 + 13) % static_cast<std::size_t>(model->info().vocab));
  session.step(std::array{SequenceInput{sequence, tokens, kNoLogits}}, {});
  // In rounds over all counts, so that a machine that slows down does so for each.
  std::array<std::vector<double>, kMostTokens> times;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t count = 1; count <= kMostTokens; ++count)
      times[count - 1].push_back(step_seconds(session, sequence, std::span(tokens).first(count)));
  }
  double one = 0;
  for (std::size_t i = 0; i < times.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    const double median = times[i][kRounds / 2];
    if (i == 0) one = median;
    fmt::print("{:2} tokens {:8.3f} ms  {:.2f}\n", i + 1, median * 1e3, median / one);
  }
  return 0;
}

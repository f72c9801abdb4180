// Sampling on every executor against the CPU's sampler: the distribution of every option and
// of all together, ties, penalties, large vocabularies, and where draws fall.
#include "backends/msl/sampling.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class Sampling : public OnExecutor {
 protected:
  struct Result {
    std::vector<std::int32_t> ids;
    std::vector<float> probabilities;
  };
  // Of what was before the first half is the prompt.
  static void take(Sampler& sampler, const std::vector<std::int32_t>& history) {
    for (std::size_t i = 0; i < history.size(); ++i) {
      if (i < history.size() / 2) {
        sampler.accept_prompt(history[i]);
      } else {
        sampler.accept(history[i]);
      }
    }
  }
  // Every row samples from the same logits, with options and a number of its own.
  Result sample(const TypedData& logits, const std::vector<SamplerOptions>& options, const std::vector<float>& uniforms,
                const std::vector<std::int32_t>& history) {
    const std::size_t vocab = logits.values.size();
    const std::size_t rows = options.size();
    std::vector<std::byte> all;
    std::vector<SampleParams> params;
    std::vector<SeenToken> seen = {{0, 1000}};  // nobody's
    for (std::size_t i = 0; i < rows; ++i) {
      all.insert(all.end(), logits.bytes.begin(), logits.bytes.end());
      params.push_back(sample_params(options[i], uniforms[i]));
      Sampler sampler(options[i]);
      take(sampler, history);
      params.back().first_seen = static_cast<std::uint32_t>(seen.size());
      seen.insert(seen.end(), sampler.seen().begin(), sampler.seen().end());
      params.back().last_seen = static_cast<std::uint32_t>(seen.size());
    }
    const auto logits_buffer = device->allocate_with(all);
    const auto params_buffer = device->allocate_with(params);
    const auto seen_buffer = device->allocate_with(seen);
    const auto ids = device->allocate_with(std::vector<std::int32_t>(rows));
    const auto probabilities = device->allocate_with(std::vector<float>(rows * vocab, std::nanf("")));
    run([&](Commands& commands) {
      encode_sample(*device, commands, logits.type,
                    {logits_buffer.get(), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(vocab),
                     params_buffer.get(), seen_buffer.get(), ids.get(), probabilities.get()});
    });
    Result result{std::vector<std::int32_t>(rows), std::vector<float>(rows * vocab)};
    ids->download(std::as_writable_bytes(std::span(result.ids)));
    probabilities->download(std::as_writable_bytes(std::span(result.probabilities)));
    return result;
  }

  void check(const TypedData& logits, const std::vector<SamplerOptions>& options,
             const std::vector<std::int32_t>& history = {}) {
    const std::size_t vocab = logits.values.size();
    std::vector<float> uniforms;
    for (std::size_t i = 0; i < options.size(); ++i) uniforms.push_back(static_cast<float>(i * 37 % 100) / 100.0F);
    const Result found = sample(logits, options, uniforms, history);
    for (std::size_t row = 0; row < options.size(); ++row) {
      Sampler sampler(options[row]);
      take(sampler, history);
      const std::vector<float> expected = sampler.distribution(logits.values);
      double before = 0;
      const auto id = static_cast<std::size_t>(found.ids[row]);
      ASSERT_LT(id, vocab);
      for (std::size_t i = 0; i < vocab; ++i) {
        const float p = found.probabilities[row * vocab + i];
        ASSERT_EQ(p > 0, expected[i] > 0) << "row " << row << " token " << i << ": " << p << " " << expected[i];
        ASSERT_NEAR(p, expected[i], 1e-5 * expected[i]) << "row " << row << " token " << i;
        if (i < id) before += expected[i];
      }
      // The draw falls where the sum of probabilities passes the number.
      EXPECT_LE(before, uniforms[row] + 1e-4) << "row " << row;
      EXPECT_GE(before + expected[id], uniforms[row] - 1e-4) << "row " << row;
      EXPECT_GT(expected[id], 0) << "row " << row;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Executor, Sampling, testing::ValuesIn(executors()), executor_name);

SamplerOptions options_of(float temperature, int top_k = 0, float typical = 1, float top_p = 1, float min_p = 0) {
  SamplerOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.typical_p = typical;
  options.top_p = top_p;
  options.min_p = min_p;
  return options;
}

std::vector<SamplerOptions> all_options() {
  return {options_of(0),
          options_of(1),
          options_of(0.7F),
          options_of(1, 1),
          options_of(1.3F, 40),
          options_of(1, 1000000),
          options_of(1, 0, 1, 0.9F),
          options_of(1, 0, 1, 1e-6F),
          options_of(0.8F, 0, 1, 1, 0.1F),
          options_of(1, 0, 0.7F),
          options_of(1, 20, 0.5F),
          options_of(0.9F, 100, 0.9F, 0.8F, 0.02F)};
}

TEST_P(Sampling, DistributionsAreTheCpuSamplers) {
  for (const std::size_t vocab : {std::size_t{1}, std::size_t{7}, std::size_t{1000}, std::size_t{3001}}) {
    if (few_shapes() && vocab > 1000) continue;
    check(TypedData(DType::kF32, normal_data(vocab, 11, 3)), all_options());
  }
  check(TypedData(DType::kBf16, normal_data(700, 12, 3)), {options_of(1), options_of(1, 0, 1, 0.9F)});
  check(TypedData(DType::kF16, normal_data(700, 13, 3)), {options_of(0), options_of(1, 30)});
}

// Few different logits: ties everywhere, which go to the lower ids.
TEST_P(Sampling, TiesGoToTheLowerId) {
  std::vector<float> logits;
  for (std::size_t i = 0; i < 600; ++i) logits.push_back(static_cast<float>(i * 7 % 5));
  check(TypedData(DType::kF32, logits),
        {options_of(0), options_of(1, 50), options_of(1, 121), options_of(1, 0, 1, 0.3F), options_of(1, 0, 1, 0.85F),
         options_of(1, 300, 1, 0.5F), options_of(1, 0, 0.2F)});
}

TEST_P(Sampling, PenaltiesCountEachTokenOnce) {
  std::vector<SamplerOptions> options = {options_of(1), options_of(0), options_of(1, 30), options_of(1, 0, 1, 0.9F)};
  for (SamplerOptions& o : options) {
    o.repeat_penalty = 1.3F;
    o.frequency_penalty = 0.2F;
    o.presence_penalty = 0.4F;
  }
  const auto logits = normal_data(400, 14, 3);
  const auto best = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  check(TypedData(DType::kF32, logits), options, {6, 3, 3, best, best, 5, best, 17, best, 5, 399, 400, 5, 17});
}

TEST_P(Sampling, RowsThatAreNotFiniteAreAnsweredByMinusOne) {
  for (const float bad : {INFINITY, -INFINITY, std::nanf(""), -std::nanf("")}) {
    for (const std::size_t at : {std::size_t{0}, std::size_t{299}}) {
      auto logits = normal_data(300, 15);
      logits[at] = bad;
      const Result found = sample(TypedData(DType::kF32, logits), {options_of(0), options_of(1, 20)}, {0, 0.5F}, {});
      EXPECT_EQ(found.ids, (std::vector<std::int32_t>{-1, -1})) << bad << " at " << at;
    }
  }
}

TEST_P(Sampling, BothZerosAreOne) {
  const Result found = sample(TypedData(DType::kF32, {-1, -0.0F, 0.0F, -2}), {options_of(0)}, {0}, {});
  EXPECT_EQ(found.ids, std::vector<std::int32_t>{1});
}

// As many tokens in a row as there are draws, each row with a sampler of its own that counts what it drew. Of
// logits that lie far from each other a draw is the host's for certain.
TEST_P(Sampling, DrawsAreTheHostsForTheSameSeeds) {
  std::vector<float> logits = normal_data(500, 17, 4);
  for (float& v : logits) v = std::round(v * 2) / 2;
  std::vector<SamplerOptions> options = all_options();
  for (std::size_t i = 0; i < options.size(); ++i) {
    options[i].seed = 40 + i;
    if (i % 2 == 0) continue;
    options[i].repeat_penalty = 1.25F;
    options[i].presence_penalty = 0.5F;
  }
  const auto rows = static_cast<std::int64_t>(options.size());
  const auto vocab = static_cast<std::int64_t>(logits.size());
  std::vector<Sampler> host;
  std::vector<Sampler> ours;
  std::vector<Sampler*> samplers;
  for (const SamplerOptions& each : options) host.emplace_back(each);
  ours = host;
  for (Sampler& sampler : ours) samplers.push_back(&sampler);
  std::vector<float> all;
  for (std::int64_t i = 0; i < rows + 2; ++i) all.insert(all.end(), logits.begin(), logits.end());
  const auto queue = device->make_queue();
  TokenDraw draw(*device, rows + 2, vocab);
  std::vector<TokenId> found(options.size());
  for (int step = 0; step < (few_shapes() ? 2 : 20); ++step) {
    const auto buffer = device->allocate_with(all);
    draw.grow(samplers);
    draw.upload(*queue, samplers, rows + 2);
    const auto commands = queue->commands();
    draw.encode(*commands, rows + 2, *buffer);
    commands->commit();
    commands->wait();
    draw.download(*queue, samplers, found);
    for (std::size_t i = 0; i < options.size(); ++i)
      EXPECT_EQ(found[i], host[i].sample(logits)) << "step " << step << " row " << i;
  }
}

TEST_P(Sampling, WholeVocabularies) {
  if (few_shapes()) return;  // the same text, over more elements
  check(TypedData(DType::kF32, normal_data(std::size_t{1} << 18, 16, 3)),
        {options_of(1, 0, 1, 0.95F), options_of(0.8F, 40, 1, 0.9F, 0.05F)});
}

TEST_P(Sampling, RefusesWhatItCannotDo) {
  expect_error(ErrorCode::kInvalidArgument, "top-p is 2", [] { sample_params(options_of(1, 0, 1, 2), 0); });
  expect_error(ErrorCode::kInvalidArgument, "uniform is 1", [] { sample_params(options_of(1), 1); });
}

}  // namespace
}  // namespace metal_marlin::msl

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
  // Every row samples from the same logits, with options and a number of its own.
  Result sample(const TypedData& logits, const std::vector<SamplerOptions>& options, const std::vector<float>& uniforms,
                const std::vector<std::int32_t>& history) {
    const std::size_t vocab = logits.values.size();
    const std::size_t rows = options.size();
    std::vector<std::byte> all;
    std::vector<SampleParams> params;
    for (std::size_t i = 0; i < rows; ++i) {
      all.insert(all.end(), logits.bytes.begin(), logits.bytes.end());
      params.push_back(sample_params(options[i], uniforms[i]));
    }
    const auto logits_buffer = device->allocate_with(all);
    const auto params_buffer = device->allocate_with(params);
    const auto ids = device->allocate_with(std::vector<std::int32_t>(rows));
    const auto counts = device->allocate_with(std::vector<std::int32_t>(rows * vocab));
    const auto probabilities = device->allocate_with(std::vector<float>(rows * vocab, std::nanf("")));
    for (const std::int32_t id : history) {
      const std::vector<std::int32_t> same(rows, id);
      ids->upload(std::as_bytes(std::span(same)));
      run([&](Commands& commands) {
        encode_sample_accept(*device, commands, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(vocab), *ids,
                             *counts);
      });
    }
    run([&](Commands& commands) {
      encode_sample(*device, commands, logits.type,
                    {logits_buffer.get(), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(vocab),
                     params_buffer.get(), history.empty() ? nullptr : counts.get(), ids.get(), probabilities.get()});
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
      for (const std::int32_t id : history) sampler.accept(id);
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
  check(TypedData(DType::kF32, logits), options, {best, 5, best, 17, best, 5, 399});
}

TEST_P(Sampling, InfinitiesAndNaNsAreNotChosen) {
  auto logits = normal_data(300, 15);
  logits[3] = -INFINITY;
  logits[299] = -INFINITY;
  check(TypedData(DType::kF32, logits), {options_of(0), options_of(1), options_of(1, 299), options_of(1, 0, 1, 0.99F)});
  logits[7] = std::nanf("");
  const std::vector<SamplerOptions> options(20, options_of(1));
  std::vector<float> uniforms;
  for (std::size_t i = 0; i < options.size(); ++i) uniforms.push_back(static_cast<float>(i) / 20.0F);
  const Result found = sample(TypedData(DType::kF32, logits), options, uniforms, {});
  for (const std::int32_t id : found.ids) {
    EXPECT_NE(id, 7);
    EXPECT_NE(id, 3);
  }
  EXPECT_EQ(found.probabilities[7], 0);
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

// RWKV's recurrences on every executor against their formulas in double: ragged sequences,
// and the same tokens given in two calls.
#include "backends/msl/rwkv_wkv.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class RwkvWkv : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, RwkvWkv, testing::ValuesIn(executors()), executor_name);

// Decays in (0, 1).
std::vector<float> decays(std::size_t n, unsigned seed) {
  auto values = normal_data(n, seed);
  for (float& v : values) v = std::exp(-std::exp(v - 1));
  return values;
}

void expect_near(const std::vector<float>& found, const std::vector<double>& expected, double relative,
                 const char* what) {
  double size = 1e-3;
  for (const double v : expected) size = std::max(size, std::fabs(v));
  for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found[i], expected[i], size * relative) << what << i;
}

constexpr double kRelative = 0x1p-17;  // sums of some ten terms a step, over some ten steps

// Two sequences of 5 and 1 tokens, then 3 and 4 more.
const std::vector<std::int32_t> kStarts[] = {{0, 5, 6}, {0, 3, 7}};

TEST_P(RwkvWkv, Version4) {
  constexpr std::size_t kChannels = 37;
  const auto w = normal_data(kChannels, 1);
  std::vector<float> log_decay;
  for (const float v : w) log_decay.push_back(-std::exp(v));
  const auto u = normal_data(kChannels, 2);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
    std::vector<float> first(2 * 3 * kChannels, 0);
    for (std::size_t s = 0; s < 2; ++s) std::fill_n(first.begin() + (s * 3 + 2) * kChannels, kChannels, -INFINITY);
    const auto state = device->allocate_with(first);
    const auto w_buffer = device->allocate_with(log_decay);
    const auto u_buffer = device->allocate_with(u);
    // Plain sums with their exponents: what the stable form stands for.
    std::vector<long double> above(2 * kChannels, 0);
    std::vector<long double> below(2 * kChannels, 0);
    for (const auto& starts : kStarts) {
      const auto tokens = static_cast<std::size_t>(starts.back());
      const TypedData k(type, normal_data(tokens * kChannels, 3, 8));
      const TypedData v(type, normal_data(tokens * kChannels, 4));
      const auto k_buffer = device->allocate_with(k.bytes);
      const auto v_buffer = device->allocate_with(v.bytes);
      const auto y = device->allocate(k.bytes.size());
      const auto s_buffer = device->allocate_with(starts);
      run([&](Commands& c) {
        encode_wkv4(*device, c, type, 2, kChannels, *k_buffer, *v_buffer, *w_buffer, *u_buffer, *state, *y, *s_buffer);
      });
      const TypedData found(type, *y);
      for (std::size_t s = 0; s < 2; ++s) {
        for (auto t = static_cast<std::size_t>(starts[s]); t < static_cast<std::size_t>(starts[s + 1]); ++t) {
          for (std::size_t c = 0; c < kChannels; ++c) {
            long double& a = above[s * kChannels + c];
            long double& b = below[s * kChannels + c];
            const std::size_t at = t * kChannels + c;
            const long double now = std::exp(static_cast<long double>(u[c]) + k.values[at]);
            const auto expected = static_cast<double>((a + now * v.values[at]) / (b + now));
            ASSERT_NEAR(found.values[at], expected, 4 * 0x1p-19 + std::fabs(expected) * k.unit()) << "token " << t;
            const long double fade = std::exp(static_cast<long double>(log_decay[c]));
            a = fade * a + std::exp(static_cast<long double>(k.values[at])) * v.values[at];
            b = fade * b + std::exp(static_cast<long double>(k.values[at]));
          }
        }
      }
    }
  }
}

TEST_P(RwkvWkv, Versions5And6) {
  for (const auto& [dim, of_tokens] : {std::pair(64, true), std::pair(20, false), std::pair(100, true)}) {
    constexpr std::size_t kHeads = 2;
    const auto d = static_cast<std::size_t>(dim);
    std::vector<double> expected_state(2 * kHeads * d * d, 0);
    const auto state = device->allocate_with(std::vector<float>(expected_state.size()));
    const auto u = normal_data(kHeads * d, 2);
    const auto u_buffer = device->allocate_with(u);
    for (const auto& starts : kStarts) {
      const std::size_t n = static_cast<std::size_t>(starts.back()) * kHeads * d;
      const auto r = normal_data(n, 3);
      const auto k = normal_data(n, 4);
      const auto v = normal_data(n, 5);
      const auto w = decays(of_tokens ? n : kHeads * d, 6);
      const auto r_buffer = device->allocate_with(r);
      const auto k_buffer = device->allocate_with(k);
      const auto v_buffer = device->allocate_with(v);
      const auto w_buffer = device->allocate_with(w);
      const auto y = device->allocate(n * sizeof(float));
      const auto s_buffer = device->allocate_with(starts);
      run([&](Commands& c) {
        encode_wkv6(*device, c, DType::kF32, {2, kHeads, dim}, of_tokens, *r_buffer, *k_buffer, *v_buffer, *w_buffer,
                    *u_buffer, *state, *y, *s_buffer);
      });
      std::vector<double> expected(n);
      for (std::size_t s = 0; s < 2; ++s) {
        for (auto t = static_cast<std::size_t>(starts[s]); t < static_cast<std::size_t>(starts[s + 1]); ++t) {
          for (std::size_t h = 0; h < kHeads; ++h) {
            double* const S = expected_state.data() + (s * kHeads + h) * d * d;
            const std::size_t at = (t * kHeads + h) * d;
            for (std::size_t i = 0; i < d; ++i) {
              const double decay = w[(of_tokens ? at : h * d) + i];
              for (std::size_t j = 0; j < d; ++j) {
                const double product = static_cast<double>(k[at + i]) * v[at + j];
                expected[at + j] += r[at + i] * (u[h * d + i] * product + S[i * d + j]);
                S[i * d + j] = decay * S[i * d + j] + product;
              }
            }
          }
        }
      }
      expect_near(TypedData(DType::kF32, *y).values, expected, kRelative, "y ");
      expect_near(TypedData(DType::kF32, *state).values, expected_state, kRelative, "state ");
    }
  }
}

TEST_P(RwkvWkv, Version7) {
  for (const int dim : {64, 33, 128}) {
    constexpr std::size_t kHeads = 2;
    const auto d = static_cast<std::size_t>(dim);
    std::vector<double> expected_state(2 * kHeads * d * d, 0);
    const auto state = device->allocate_with(std::vector<float>(expected_state.size()));
    for (const auto& starts : kStarts) {
      const std::size_t n = static_cast<std::size_t>(starts.back()) * kHeads * d;
      const auto r = normal_data(n, 3);
      const auto k = normal_data(n, 4);
      const auto v = normal_data(n, 5);
      const auto w = decays(n, 6);
      // As the model has them: a a unit vector's negative, b its product with rates below one.
      const auto a = normal_data(n, 7, 1 / std::sqrt(static_cast<float>(d)));
      const auto b = normal_data(n, 8, 1 / std::sqrt(static_cast<float>(d)));
      std::vector<std::unique_ptr<Buffer>> in;
      for (const auto* const values : {&r, &w, &k, &v, &a, &b}) in.push_back(device->allocate_with(*values));
      const auto y = device->allocate(n * sizeof(float));
      const auto s_buffer = device->allocate_with(starts);
      run([&](Commands& c) {
        encode_wkv7(*device, c, DType::kF32, {2, kHeads, dim}, *in[0], *in[1], *in[2], *in[3], *in[4], *in[5], *state,
                    *y, *s_buffer);
      });
      std::vector<double> expected(n);
      for (std::size_t s = 0; s < 2; ++s) {
        for (auto t = static_cast<std::size_t>(starts[s]); t < static_cast<std::size_t>(starts[s + 1]); ++t) {
          for (std::size_t h = 0; h < kHeads; ++h) {
            double* const S = expected_state.data() + (s * kHeads + h) * d * d;
            const std::size_t at = (t * kHeads + h) * d;
            for (std::size_t i = 0; i < d; ++i) {
              double along = 0;
              for (std::size_t j = 0; j < d; ++j) along += S[i * d + j] * a[at + j];
              for (std::size_t j = 0; j < d; ++j) {
                S[i * d + j] =
                    S[i * d + j] * w[at + j] + along * b[at + j] + static_cast<double>(v[at + i]) * k[at + j];
                expected[at + i] += S[i * d + j] * r[at + j];
              }
            }
          }
        }
      }
      expect_near(TypedData(DType::kF32, *y).values, expected, kRelative, "y ");
      expect_near(TypedData(DType::kF32, *state).values, expected_state, kRelative, "state ");
    }
  }
}

TEST_P(RwkvWkv, RefusesLargeHeads) {
  const auto b = device->allocate(64);
  const auto commands = device->commands();
  EXPECT_THROW(encode_wkv7(*device, *commands, DType::kF32, {1, 1, 129}, *b, *b, *b, *b, *b, *b, *b, *b, *b), Error);
}

}  // namespace
}  // namespace metal_marlin::msl

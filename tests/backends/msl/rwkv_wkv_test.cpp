// RWKV's recurrences on every executor against their formulas in double: ragged sequences,
// and the same tokens given in two calls.
#include "backends/msl/rwkv_wkv.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "io/safetensors.h"
#include "metal_marlin/error.h"
#include "test_data.h"

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
    for (std::size_t s = 0; s < 2; ++s) std::fill_n(first.data() + (s * 3 + 2) * kChannels, kChannels, -INFINITY);
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
  for (const auto& [dim, of_tokens, type] :
       {std::tuple(64, true, DType::kF32), std::tuple(20, false, DType::kF32), std::tuple(100, true, DType::kF32),
        std::tuple(64, true, DType::kF16), std::tuple(20, false, DType::kBf16), std::tuple(100, true, DType::kBf16)}) {
    constexpr std::size_t kHeads = 2;
    const auto d = static_cast<std::size_t>(dim);
    std::vector<double> expected_state(2 * kHeads * d * d, 0);
    const auto state = device->allocate_with(std::vector<float>(expected_state.size()));
    const auto u = normal_data(kHeads * d, 2);
    const auto u_buffer = device->allocate_with(u);
    for (const auto& starts : kStarts) {
      const std::size_t n = static_cast<std::size_t>(starts.back()) * kHeads * d;
      const TypedData typed[] = {{type, normal_data(n, 3)}, {type, normal_data(n, 4)}, {type, normal_data(n, 5)}};
      const auto& r = typed[0].values;
      const auto& k = typed[1].values;
      const auto& v = typed[2].values;
      const auto w = decays(of_tokens ? n : kHeads * d, 6);
      const auto r_buffer = device->allocate_with(typed[0].bytes);
      const auto k_buffer = device->allocate_with(typed[1].bytes);
      const auto v_buffer = device->allocate_with(typed[2].bytes);
      const auto w_buffer = device->allocate_with(w);
      const auto y = device->allocate(typed[0].bytes.size());
      const auto s_buffer = device->allocate_with(starts);
      run([&](Commands& c) {
        encode_wkv6(*device, c, type, {2, kHeads, dim}, of_tokens, *r_buffer, *k_buffer, *v_buffer, *w_buffer,
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
      expect_near(TypedData(type, *y).values, expected, kRelative + typed[0].unit(), "y ");
      expect_near(TypedData(DType::kF32, *state).values, expected_state, kRelative, "state ");
    }
  }
}

TEST_P(RwkvWkv, Version7) {
  for (const auto& [dim, type] : {std::pair(64, DType::kF32), std::pair(33, DType::kF32), std::pair(128, DType::kF32),
                                  std::pair(64, DType::kF16), std::pair(33, DType::kBf16)}) {
    constexpr std::size_t kHeads = 2;
    const auto d = static_cast<std::size_t>(dim);
    std::vector<double> expected_state(2 * kHeads * d * d, 0);
    const auto state = device->allocate_with(std::vector<float>(expected_state.size()));
    for (const auto& starts : kStarts) {
      const std::size_t n = static_cast<std::size_t>(starts.back()) * kHeads * d;
      // As the model has them: a a unit vector's negative, b its product with rates below one.
      const float unit = 1 / std::sqrt(static_cast<float>(d));
      const TypedData typed[] = {{type, normal_data(n, 3)},
                                 {type, normal_data(n, 4)},
                                 {type, normal_data(n, 5)},
                                 {type, normal_data(n, 7, unit)},
                                 {type, normal_data(n, 8, unit)}};
      const auto& r = typed[0].values;
      const auto& k = typed[1].values;
      const auto& v = typed[2].values;
      const auto& a = typed[3].values;
      const auto& b = typed[4].values;
      const auto w = decays(n, 6);
      std::vector<std::unique_ptr<Buffer>> in;
      for (const TypedData& data : typed) in.push_back(device->allocate_with(data.bytes));
      const auto w_buffer = device->allocate_with(w);
      const auto y = device->allocate(typed[0].bytes.size());
      const auto s_buffer = device->allocate_with(starts);
      run([&](Commands& c) {
        encode_wkv7(*device, c, type, {2, kHeads, dim}, *in[0], *w_buffer, *in[1], *in[2], *in[3], *in[4], *state, *y,
                    *s_buffer);
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
      expect_near(TypedData(type, *y).values, expected, kRelative + typed[0].unit(), "y ");
      expect_near(TypedData(DType::kF32, *state).values, expected_state, kRelative, "state ");
    }
  }
}

// What the public implementations give (tools/make_formula_vectors.py).
class Golden {
 public:
  explicit Golden(const std::string& prefix) : file_(test_data("formulas.safetensors")), prefix_(prefix + ".") {}
  [[nodiscard]] std::vector<float> operator()(const char* name) const {
    return read_tensor<float>(file_, prefix_ + name);
  }
  [[nodiscard]] std::unique_ptr<Buffer> on(Device& device, const char* name) const {
    return device.allocate_with((*this)(name));
  }
  [[nodiscard]] std::vector<double> expected(const char* name) const {
    const auto values = (*this)(name);
    return {values.begin(), values.end()};
  }

 private:
  SafetensorsFile file_;
  std::string prefix_;
};

TEST_P(RwkvWkv, AsPublicImplementations) {
  const auto starts = device->allocate_with(std::vector<std::int32_t>{0, 9});
  {
    const Golden golden("wkv4");
    const std::size_t channels = golden("bonus").size();
    std::vector<float> first(3 * channels, 0);
    std::fill_n(first.begin() + static_cast<std::ptrdiff_t>(2 * channels), channels, -INFINITY);
    const auto k = golden.on(*device, "k");
    const auto v = golden.on(*device, "v");
    const auto w = golden.on(*device, "log_decay");
    const auto u = golden.on(*device, "bonus");
    const auto state = device->allocate_with(first);
    const auto y = device->allocate(k->size());
    run([&](Commands& c) {
      encode_wkv4(*device, c, DType::kF32, 1, static_cast<std::int64_t>(channels), *k, *v, *w, *u, *state, *y, *starts);
    });
    expect_near(TypedData(DType::kF32, *y).values, golden.expected("y"), 0x1p-18, "wkv4 ");
    // Numerator and denominator are over e to the largest exponent, which may be another.
    const auto found = TypedData(DType::kF32, *state).values;
    for (std::size_t c = 0; c < channels; ++c) {
      for (const auto& [at, name] : {std::pair<std::size_t, const char*>{0, "numerator"}, {1, "denominator"}}) {
        const double expected =
            golden.expected(name)[c] * std::exp(golden.expected("largest")[c] - found[2 * channels + c]);
        ASSERT_NEAR(found[at * channels + c], expected, 0x1p-17 * (1 + std::fabs(expected))) << name << " " << c;
      }
    }
  }
  constexpr WkvShape kShape{1, 3, 24};
  {
    const Golden golden("wkv6");
    std::vector<std::unique_ptr<Buffer>> in;
    for (const char* const name : {"r", "k", "v", "decay", "bonus"}) in.push_back(golden.on(*device, name));
    const auto state = device->allocate_with(std::vector<float>(golden("state").size()));
    const auto y = device->allocate(in[0]->size());
    run([&](Commands& c) {
      encode_wkv6(*device, c, DType::kF32, kShape, true, *in[0], *in[1], *in[2], *in[3], *in[4], *state, *y, *starts);
    });
    expect_near(TypedData(DType::kF32, *y).values, golden.expected("y"), kRelative, "wkv6 ");
    expect_near(TypedData(DType::kF32, *state).values, golden.expected("state"), kRelative, "wkv6 state ");
  }
  {
    const Golden golden("wkv7");
    std::vector<std::unique_ptr<Buffer>> in;
    for (const char* const name : {"r", "decay", "k", "v", "a", "b"}) in.push_back(golden.on(*device, name));
    const auto state = device->allocate_with(std::vector<float>(golden("state").size()));
    const auto y = device->allocate(in[0]->size());
    run([&](Commands& c) {
      encode_wkv7(*device, c, DType::kF32, kShape, *in[0], *in[1], *in[2], *in[3], *in[4], *in[5], *state, *y, *starts);
    });
    expect_near(TypedData(DType::kF32, *y).values, golden.expected("y"), kRelative, "wkv7 ");
    expect_near(TypedData(DType::kF32, *state).values, golden.expected("state"), kRelative, "wkv7 state ");
  }
}

TEST_P(RwkvWkv, RefusesLargeHeads) {
  const auto b = device->allocate(64);
  const auto commands = device->commands();
  EXPECT_THROW(encode_wkv7(*device, *commands, DType::kF32, {1, 1, 129}, *b, *b, *b, *b, *b, *b, *b, *b, *b), Error);
}

}  // namespace
}  // namespace metal_marlin::msl

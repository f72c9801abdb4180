// Rotary embedding on every executor against cos and sin in double.
#include "backends/msl/rope.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class Rope : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, Rope, testing::ValuesIn(executors()), executor_name);

// What the head should be, the angle a product in f32 as in the kernel.
std::vector<double> rotated(const RopeParams& p, const std::vector<float>& head, std::int32_t position,
                            const std::vector<float>& frequencies) {
  std::vector<double> out(head.begin(), head.end());
  for (std::size_t i = 0; i < p.rotary_dim / 2; ++i) {
    const std::size_t a = p.first + (p.interleaved != 0 ? 2 * i : i);
    const std::size_t b = p.interleaved != 0 ? a + 1 : a + p.rotary_dim / 2;
    const double angle = static_cast<float>(position) * frequencies[i];
    out[a] = (head[a] * std::cos(angle) - head[b] * std::sin(angle)) * p.scale;
    out[b] = (head[b] * std::cos(angle) + head[a] * std::sin(angle)) * p.scale;
  }
  return out;
}

TEST_P(Rope, RotatesQAndKAtEveryPosition) {
  const std::vector<std::int32_t> positions = {0, 1, 7, 4095, 131071, 2};
  for (const RopeParams& p : {RopeParams{3, 1, 64, 0, 64, 0, 0, 0, 1}, RopeParams{2, 2, 80, 0, 20, 0, 0, 0, 1.25F},
                              RopeParams{5, 0, 96, 64, 32, 0, 0, 1, 0.5F}, RopeParams{1, 4, 6, 2, 2, 0, 0, 1, 1}}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
      RopeParams params = p;
      params.q_stride = p.q_heads * p.head_dim + 3;  // rows may lie apart
      params.k_stride = p.k_heads * p.head_dim + 1;
      std::vector<float> frequencies(p.rotary_dim / 2);
      for (std::size_t i = 0; i < frequencies.size(); ++i)
        frequencies[i] = std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(p.rotary_dim));
      TypedData q(type, normal_data(positions.size() * params.q_stride, 1));
      TypedData k(type, normal_data(positions.size() * params.k_stride, 2));
      const auto q_buffer = device->allocate_with(q.bytes);
      const auto k_buffer = device->allocate_with(k.bytes);
      const auto f_buffer = device->allocate_with(frequencies);
      const auto p_buffer = device->allocate_with(positions);
      const auto commands = device->commands();
      encode_rope(*device, *commands, params, type, static_cast<std::int64_t>(positions.size()), *q_buffer,
                  k_buffer.get(), *f_buffer, *p_buffer);
      commands->commit();
      commands->wait();
      const auto check = [&](const TypedData& before, const Buffer& buffer, std::uint32_t heads, std::uint32_t stride) {
        const TypedData after(type, buffer);
        for (std::size_t t = 0; t < positions.size(); ++t) {
          for (std::size_t h = 0; h < heads; ++h) {
            const auto begin = before.values.begin() + static_cast<std::ptrdiff_t>(t * stride + h * p.head_dim);
            const std::vector<float> head(begin, begin + p.head_dim);
            const std::vector<double> expected = rotated(params, head, positions[t], frequencies);
            for (std::size_t e = 0; e < p.head_dim; ++e) {
              // Both products and their sum, then the type's rounding.
              const double tolerance = 8 * p.scale * 0x1p-21 + std::fabs(expected[e]) * after.unit();
              ASSERT_NEAR(after.values[t * stride + h * p.head_dim + e], expected[e], tolerance)
                  << dtype_name(type) << " token " << t << " head " << h << " element " << e;
            }
          }
          for (std::size_t e = heads * p.head_dim; e < stride; ++e)  // what lies between rows
            ASSERT_EQ(after.values[t * stride + e], before.values[t * stride + e]);
        }
      };
      check(q, *q_buffer, p.q_heads, params.q_stride);
      check(k, *k_buffer, p.k_heads, params.k_stride);
    }
  }
}

// Every head divided by its root mean square, times weights.
std::vector<float> normed(const std::vector<float>& head, const std::vector<float>& weight, float eps) {
  double squares = 0;
  for (const float v : head) squares += static_cast<double>(v) * v;
  const double factor = 1 / std::sqrt(squares / static_cast<double>(head.size()) + eps);
  std::vector<float> out;
  for (std::size_t e = 0; e < head.size(); ++e) out.push_back(static_cast<float>(head[e] * factor * weight[e]));
  return out;
}

TEST_P(Rope, NormsHeadsFirst) {
  const std::vector<std::int32_t> positions = {0, 9, 4095};
  constexpr float kEps = 1e-3F;
  for (const RopeParams& p : {RopeParams{3, 2, 64, 0, 64, 0, 0, 0, 1}, RopeParams{2, 1, 80, 8, 20, 0, 0, 0, 1.25F},
                              RopeParams{5, 0, 6, 2, 2, 0, 0, 1, 0.5F}, RopeParams{1, 1, 33, 0, 0, 0, 0, 0, 1}}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
      RopeParams params = p;
      params.q_stride = p.q_heads * p.head_dim + 3;
      params.k_stride = p.k_heads * p.head_dim + 1;
      std::vector<float> frequencies(p.rotary_dim / 2 + 1);
      for (std::size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = 1.0F / static_cast<float>(1 + 7 * i);
      const TypedData q(type, normal_data(positions.size() * params.q_stride, 1, 0.2F));
      const TypedData k(type, normal_data(positions.size() * params.k_stride, 2, 3));
      const auto q_weight = normal_data(p.head_dim, 3);
      const auto k_weight = normal_data(p.head_dim, 4);
      const auto q_buffer = device->allocate_with(q.bytes);
      const auto k_buffer = device->allocate_with(k.bytes);
      const auto f_buffer = device->allocate_with(frequencies);
      const auto p_buffer = device->allocate_with(positions);
      const auto qw_buffer = device->allocate_with(q_weight);
      const auto kw_buffer = device->allocate_with(k_weight);
      run([&](Commands& c) {
        encode_norm_rope(*device, c, params, type, static_cast<std::int64_t>(positions.size()), *q_buffer,
                         k_buffer.get(), *f_buffer, *p_buffer, {qw_buffer.get(), kw_buffer.get(), kEps});
      });
      const auto check = [&](const TypedData& before, const Buffer& buffer, const std::vector<float>& weight,
                             std::uint32_t heads, std::uint32_t stride) {
        const TypedData after(type, buffer);
        for (std::size_t t = 0; t < positions.size(); ++t) {
          for (std::size_t h = 0; h < heads; ++h) {
            const auto begin = before.values.begin() + static_cast<std::ptrdiff_t>(t * stride + h * p.head_dim);
            const std::vector<float> head = normed({begin, begin + p.head_dim}, weight, kEps);
            const std::vector<double> expected = rotated(params, head, positions[t], frequencies);
            for (std::size_t e = 0; e < p.head_dim; ++e) {
              // Two numbers of the norm's size, each rounded to the type, then the result.
              double size = 0;
              for (const float v : head) size = std::max(size, static_cast<double>(std::fabs(v)));
              const double tolerance = (2 * size * p.scale + std::fabs(expected[e])) * (after.unit() + 0x1p-20);
              ASSERT_NEAR(after.values[t * stride + h * p.head_dim + e], expected[e], tolerance)
                  << dtype_name(type) << " token " << t << " head " << h << " element " << e;
            }
          }
          for (std::size_t e = heads * p.head_dim; e < stride; ++e)  // what lies between rows
            ASSERT_EQ(after.values[t * stride + e], before.values[t * stride + e]);
        }
      };
      check(q, *q_buffer, q_weight, p.q_heads, params.q_stride);
      check(k, *k_buffer, k_weight, p.k_heads, params.k_stride);
    }
  }
}

TEST_P(Rope, RefusesOddPairsAndMissingKeys) {
  const auto buffer = device->allocate(1024);
  const auto commands = device->commands();
  const auto encode = [&](const RopeParams& p) {
    encode_rope(*device, *commands, p, DType::kF32, 1, *buffer, nullptr, *buffer, *buffer);
  };
  EXPECT_THROW(encode({1, 0, 8, 0, 7, 8, 0, 0, 1}), Error);
  EXPECT_THROW(encode({1, 0, 8, 4, 8, 8, 0, 0, 1}), Error);
  EXPECT_THROW(encode({1, 1, 8, 0, 8, 8, 8, 0, 1}), Error);
}

}  // namespace
}  // namespace metal_marlin::msl

// bfloat16 as bits on every executor: every pattern, ties, rounding at random.
#include "backends/msl/bf16_convert.h"

#include <cmath>
#include <numeric>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class Bf16Convert : public OnExecutor {
 protected:
  template <typename Out, typename In>
  std::vector<Out> convert(DType from, DType to, const std::vector<In>& in,
                           std::optional<std::uint32_t> seed = std::nullopt) {
    const auto buffer = device->allocate_with(in);
    const auto out = device->allocate(in.size() * sizeof(Out));
    run([&](Commands& c) {
      encode_bf16_convert(*device, c, from, to, static_cast<std::int64_t>(in.size()), *buffer, *out, seed);
    });
    std::vector<Out> found(in.size());
    out->download(std::as_writable_bytes(std::span(found)));
    return found;
  }
};
INSTANTIATE_TEST_SUITE_P(Executor, Bf16Convert, testing::ValuesIn(executors()), executor_name);

TEST_P(Bf16Convert, EveryPatternWidensExactly) {
  std::vector<std::uint16_t> all(65536);
  std::iota(all.begin(), all.end(), std::uint16_t{0});
  const auto wide = convert<std::uint32_t>(DType::kBf16, DType::kF32, all);
  for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(wide[i], static_cast<std::uint32_t>(i) << 16);
  // And back: NaNs become quiet.
  const auto narrow = convert<std::uint16_t>(DType::kF32, DType::kBf16, wide);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool nan = (i & 0x7FFF) > 0x7F80;
    ASSERT_EQ(narrow[i], nan ? (i | 0x40) : i);
  }
}

TEST_P(Bf16Convert, RoundsToNearestEven) {
  std::vector<std::uint32_t> bits;
  for (const std::uint32_t high : {0x0000U, 0x0001U, 0x3F80U, 0x3F81U, 0x7F7FU, 0xC2FEU, 0x8000U, 0x007FU}) {
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU})
      bits.push_back(high << 16 | low);
  }
  for (const float v : normal_data(5000, 3, 1e10F)) bits.push_back(std::bit_cast<std::uint32_t>(v));
  const auto found = convert<std::uint16_t>(DType::kF32, DType::kBf16, bits);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    std::uint32_t expected = bits[i] >> 16;
    const std::uint32_t rest = bits[i] & 0xFFFF;
    if (rest > 0x8000 || (rest == 0x8000 && (expected & 1) != 0)) ++expected;
    ASSERT_EQ(found[i], expected) << std::hex << bits[i];
  }
}

TEST_P(Bf16Convert, HalvesBothWays) {
  std::vector<std::uint16_t> all(65536);
  std::iota(all.begin(), all.end(), std::uint16_t{0});
  const auto from_half = convert<std::uint16_t>(DType::kF16, DType::kBf16, all);
  const auto to_half = convert<std::uint16_t>(DType::kBf16, DType::kF16, all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const float half = f16_to_f32(all[i]);
    const float wide = bf16_to_f32(all[i]);
    if (std::isnan(half)) {
      ASSERT_TRUE(std::isnan(bf16_to_f32(from_half[i])));
    } else {
      ASSERT_EQ(from_half[i], f32_to_bf16(half)) << i;
    }
    if (std::isnan(wide)) {
      ASSERT_TRUE(std::isnan(f16_to_f32(to_half[i])));
    } else {
      ASSERT_EQ(to_half[i], f32_to_f16(wide)) << i;
    }
  }
}

// The 32-bit RXS-M-XS permutation of PCG (O'Neill 2014, section 6.3) of one step from element and seed.
std::uint32_t random_word(std::uint32_t seed, std::uint32_t index) {
  const std::uint32_t state = (index ^ (seed * 2654435769U)) * 747796405U + 2891336453U;
  const std::uint32_t word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737U;
  return (word >> 22) ^ word;
}

// The numbers are the same on every device and of every release: what was rounded with a seed can be made again.
TEST_P(Bf16Convert, AtRandomByKnownNumbers) {
  std::vector<std::uint32_t> bits;
  for (const float v : normal_data(5000, 4)) bits.push_back(std::bit_cast<std::uint32_t>(v));
  for (const std::uint32_t seed : {0U, 1U, 0xFFFFFFFFU}) {
    const auto found = convert<std::uint16_t>(DType::kF32, DType::kBf16, bits, seed);
    for (std::size_t i = 0; i < bits.size(); ++i)
      ASSERT_EQ(found[i], (bits[i] + (random_word(seed, static_cast<std::uint32_t>(i)) & 0xFFFF)) >> 16) << i;
  }
}

// One of the two neighbours, the upper one as often as the rest says, the same for a seed.
TEST_P(Bf16Convert, AtRandomIsRightOnAverage) {
  constexpr std::size_t kCount = 20000;
  for (const std::uint32_t rest : {0x0000U, 0x2000U, 0x8000U, 0xF000U}) {
    const std::vector<std::uint32_t> bits(kCount, 0x40490000U | rest);
    const auto found = convert<std::uint16_t>(DType::kF32, DType::kBf16, bits, 7);
    std::size_t ups = 0;
    for (const std::uint16_t v : found) {
      ASSERT_TRUE(v == 0x4049 || (v == 0x404A && rest != 0));
      ups += v == 0x404A ? 1 : 0;
    }
    const double p = rest / 65536.0;
    EXPECT_NEAR(static_cast<double>(ups) / kCount, p, 5 * std::sqrt(p * (1 - p) / kCount));
    EXPECT_EQ(found, convert<std::uint16_t>(DType::kF32, DType::kBf16, bits, 7));
    if (rest == 0x8000) {
      EXPECT_NE(found, convert<std::uint16_t>(DType::kF32, DType::kBf16, bits, 8));
    }
  }
  const std::vector<std::uint32_t> special = {0x7F800000U, 0xFF800000U, 0x7F800001U, 0x7F7FFFFFU};
  const auto found = convert<std::uint16_t>(DType::kF32, DType::kBf16, special, 1);
  EXPECT_EQ(found[0], 0x7F80);
  EXPECT_EQ(found[1], 0xFF80);
  EXPECT_EQ(found[2], 0x7FC0);
  EXPECT_TRUE(found[3] == 0x7F7F || found[3] == 0x7F80);
}

TEST_P(Bf16Convert, RefusesOtherPairs) {
  EXPECT_THROW(convert<std::uint32_t>(DType::kF32, DType::kF32, std::vector<float>(1)), Error);
  EXPECT_THROW(convert<std::uint16_t>(DType::kF16, DType::kBf16, std::vector<std::uint16_t>(1), 3), Error);
}

}  // namespace
}  // namespace metal_marlin::msl

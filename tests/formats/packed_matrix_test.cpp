#include "formats/packed_matrix.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>
#include <random>

#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/group_scale.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

ThreadPool& pool() {
  static ThreadPool instance(2);
  return instance;
}

std::vector<float> normal_data(std::size_t n, unsigned seed = 1, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(random);
  return out;
}

PackedMatrix quantize(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, const std::vector<float>& data,
                      ThreadPool& threads = pool()) {
  float largest = 0;
  for (const float x : data) largest = std::max(largest, std::fabs(x));
  const float global = spec.format == Format::kNvfp4 ? nvfp4_global_scale(largest) : 1.0F;
  const RowReader read = [&](std::int64_t row, float* out) { std::copy_n(data.begin() + row * cols, cols, out); };
  return quantize_matrix(spec, rows, cols, read, global, threads);
}

std::vector<float> decode(const PackedMatrix& matrix) {
  std::vector<float> out(static_cast<std::size_t>(matrix.rows * matrix.cols));
  for (std::int64_t row = 0; row < matrix.rows; ++row) matrix.view().decode_row(row, out.data() + row * matrix.cols);
  return out;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(a[i]) * a[i];
  }
  return std::sqrt(error / size);
}

// Every combination that the formats allow.
std::vector<FormatSpec> all_specs() {
  std::vector<FormatSpec> specs;
  for (const FormatInfo& info : all_formats()) {
    for (const int group : {16, 32, 64, 128, 0}) {
      for (const ScaleType type :
           {ScaleType::kF16, ScaleType::kBf16, ScaleType::kF32, ScaleType::kE8m0, ScaleType::kE4m3}) {
        for (const ZeroKind zero : {ZeroKind::kNone, ZeroKind::kMinimum, ZeroKind::kInteger}) {
          const FormatSpec spec{info.format, group, type, zero};
          try {
            validate(spec);
            specs.push_back(spec);
          } catch (const Error&) {
          }
        }
      }
    }
  }
  return specs;
}

TEST(PackCodes, RoundTripsAtEveryWidthAndLength) {
  std::mt19937 random(3);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (std::size_t n = 0; n < 70; ++n) {
      std::vector<std::uint8_t> codes(n);
      for (auto& code : codes) code = static_cast<std::uint8_t>(random() & ((1U << bits) - 1));
      std::vector<std::byte> packed((n * static_cast<std::size_t>(bits) + 7) / 8);
      pack_codes(bits, codes, packed.data());
      std::vector<std::uint8_t> back(n);
      unpack_codes(bits, packed.data(), n, back.data());
      ASSERT_EQ(codes, back);
    }
  }
}

TEST(PackCodes, IsALittleEndianBitStreamWithoutWaste) {
  const std::vector<std::uint8_t> codes{1, 2, 3, 4, 5, 6, 7, 0};  // 3 bits each
  std::vector<std::byte> packed(3);
  pack_codes(3, codes, packed.data());
  EXPECT_EQ(packed, (std::vector<std::byte>{std::byte{0b11010001}, std::byte{0b01011000}, std::byte{0b00011111}}));
  EXPECT_EQ(PackedLayout(default_spec(Format::kInt3), 1, 32).code_bytes, 12U);
}

TEST(PackedMatrix, EverySpecDecodesWhatItsPartsSay) {
  for (const FormatSpec& spec : all_specs()) {
    for (const std::int64_t cols : {1, 31, 40, 160}) {
      const auto data = normal_data(static_cast<std::size_t>(3 * cols), 5);
      const PackedMatrix matrix = quantize(spec, 3, cols, data);
      matrix.view().check_sizes("test");
      const auto decoded = decode(matrix);
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols));
      for (std::int64_t row = 0; row < 3; ++row) {
        matrix.view().unpack_row(row, codes.data());
        for (std::int64_t i = 0; i < cols; ++i) {
          const std::int64_t group = i / spec.group_size(cols);
          const double element = decode_table(spec.format)[codes[static_cast<std::size_t>(i)]];
          const double expected = static_cast<double>(matrix.view().scale(row, group)) / matrix.global_scale *
                                      (element - matrix.view().zero(row, group)) +
                                  matrix.view().minimum(row, group);
          ASSERT_NEAR(decoded[static_cast<std::size_t>(row * cols + i)], expected, 1e-6 * (1 + std::fabs(expected)));
        }
      }
    }
  }
}

// Bounds: what a uniform or quantile grid of that many levels leaves of normal
// data at group 32, rounded up by a tenth of the values in the literature's
// tables for round-to-nearest; a wrong table or scale rule exceeds them.
TEST(PackedMatrix, ErrorOnNormalDataIsWithinTheFormatsBound) {
  const std::map<Format, double> bounds{
      {Format::kFp4, 0.103},   {Format::kMxfp4, 0.125},   {Format::kNvfp4, 0.100},   {Format::kU4, 0.088},
      {Format::kS4, 0.098},    {Format::kNf4, 0.090},     {Format::kNf3, 0.180},     {Format::kNf2, 0.440},
      {Format::kInt2, 0.440},  {Format::kInt3, 0.210},    {Format::kInt5, 0.050},    {Format::kInt6, 0.025},
      {Format::kInt8, 0.0062}, {Format::kFp8E4M3, 0.028}, {Format::kFp8E5M2, 0.056}, {Format::kU5, 0.045}};
  const auto data = normal_data(64 * 512, 9, 0.02F);
  for (const auto& [format, bound] : bounds) {
    const double error = relative_error(data, decode(quantize(default_spec(format), 64, 512, data)));
    EXPECT_LT(error, bound) << format_info(format).name;
    EXPECT_GT(error, bound / 3) << format_info(format).name;
  }
}

TEST(PackedMatrix, DataOnTheGridIsLossless) {
  std::mt19937 random(8);
  for (const FormatInfo& info : all_formats()) {
    if (info.format == Format::kFp8E4M3 || info.format == Format::kFp8E5M2 || info.format == Format::kNvfp4) continue;
    const FormatSpec spec = default_spec(info.format);
    const auto table = decode_table(info.format);
    std::vector<float> data;
    for (int group = 0; group < 40; ++group) {
      const float scale =
          round_scale(spec.scale_type, spec.scale_type == ScaleType::kE8m0 ? std::ldexp(1.0F, group % 9 - 4)
                                                                           : 0.01F * static_cast<float>(group + 1));
      const float minimum =
          spec.zero == ZeroKind::kMinimum ? round_scale(spec.scale_type, -0.07F * static_cast<float>(group)) : 0.0F;
      for (int i = 0; i < 32; ++i) {
        // Both ends of the range are present, as in what a quantizer wrote.
        std::size_t code = i == 0 ? 0 : i == 1 ? table.size() - 1 : random() % table.size();
        if (info.format == Format::kFp4 || info.format == Format::kMxfp4) code = i == 0 ? 7 : code;
        if (info.format == Format::kInt8) code = std::max<std::size_t>(code, 1);
        data.push_back(scale * table[code] + minimum);
      }
    }
    EXPECT_LT(relative_error(data, decode(quantize(spec, 40, 32, data))), 1e-7) << info.name;
  }
}

TEST(PackedMatrix, ZeroGroupsDecodeToZero) {
  for (const FormatSpec& spec : all_specs()) {
    const auto size = static_cast<std::size_t>(spec.group == 0 ? 64 : spec.group);
    std::vector<float> data(2 * size, 0.0F);
    if (spec.group != 0) data[size + 3] = 1.0F;  // the neighbour group is not zero
    const auto decoded = decode(quantize(spec, 1, static_cast<std::int64_t>(data.size()), data));
    for (std::size_t i = 0; i < size; ++i)
      EXPECT_EQ(decoded[i], 0.0F) << format_info(spec.format).name << " " << spec.group;
  }
}

TEST(PackedMatrix, NanAndInfinityAreRefusedByPlace) {
  for (const float bad : {static_cast<float>(NAN), static_cast<float>(INFINITY), static_cast<float>(-INFINITY)}) {
    std::vector<float> data(64, 1.0F);
    data[37] = bad;
    expect_error(ErrorCode::kInvalidArgument, "weight [1, 5]",
                 [&] { quantize(default_spec(Format::kFp4), 2, 32, data); });
  }
}

TEST(PackedMatrix, ExtremeMagnitudesStayFinite) {
  for (const FormatSpec& spec : all_specs()) {
    for (const float size : {1e-42F, 1e-30F, 1e-8F, 60000.0F, 1e9F, 3e38F}) {
      auto data = normal_data(64, 2);
      for (float& x : data) x = std::clamp(x, -1.0F, 1.0F) * size;
      for (const float x : decode(quantize(spec, 1, 64, data))) {
        ASSERT_TRUE(std::isfinite(x)) << format_info(spec.format).name << " at " << size;
      }
    }
  }
}

TEST(PackedMatrix, ResultDoesNotDependOnThreads) {
  ThreadPool one(1);
  ThreadPool four(4);
  const auto data = normal_data(100 * 96, 6);
  for (const Format format : {Format::kFp4, Format::kU4, Format::kNvfp4}) {
    const PackedMatrix a = quantize(default_spec(format), 100, 96, data, one);
    const PackedMatrix b = quantize(default_spec(format), 100, 96, data, four);
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.scales, b.scales);
    EXPECT_EQ(a.zeros, b.zeros);
  }
}

std::vector<FormatSpec> sparse_specs() {
  std::vector<FormatSpec> specs{default_spec(Format::kFp4),
                                default_spec(Format::kMxfp4),
                                default_spec(Format::kNvfp4),
                                {Format::kS4, 128, ScaleType::kBf16, ZeroKind::kNone}};
  for (FormatSpec& spec : specs) spec.sparse = true;
  return specs;
}

// Of each four neighbours the two largest are what the dense format makes of them beside zeros.
TEST(SparseMatrix, KeepsTheTwoLargestOfFour) {
  for (const FormatSpec& spec : sparse_specs()) {
    for (const std::int64_t cols : {4, 36, 160}) {
      const auto data = normal_data(static_cast<std::size_t>(3 * cols), 5);
      std::vector<float> pruned = data;
      for (std::size_t begin = 0; begin < data.size(); begin += 4) {
        std::array<float, 4> sizes{};
        for (std::size_t i = 0; i < 4; ++i) sizes[i] = std::fabs(data[begin + i]);
        std::sort(sizes.begin(), sizes.end());
        for (std::size_t i = 0; i < 4; ++i)
          if (std::fabs(data[begin + i]) <= sizes[1]) pruned[begin + i] = 0;
      }
      FormatSpec dense = spec;
      dense.sparse = false;
      const PackedMatrix matrix = quantize(spec, 3, cols, data);
      matrix.view().check_sizes("test");
      matrix.view().check_finite("test");
      EXPECT_EQ(decode(matrix), decode(quantize(dense, 3, cols, pruned))) << format_label(spec) << " " << cols;
    }
  }
}

TEST(SparseMatrix, ImportanceDecidesWhatIsKept) {
  const std::vector<float> data{1, 2, 3, 4};
  FormatSpec spec = default_spec(Format::kS4);
  spec.sparse = true;
  ThreadPool pool(1);
  const std::vector<float> importance{100, 1, 1, 1};
  QuantizeStats stats;
  const PackedMatrix matrix = quantize_matrix(
      spec, 1, 4, [&](std::int64_t, float* out) { std::copy(data.begin(), data.end(), out); }, 1, pool, &stats,
      importance);
  const std::vector<float> found = decode(matrix);
  EXPECT_NE(found[0], 0);
  EXPECT_EQ(found[1], 0);
  EXPECT_EQ(found[2], 0);
  EXPECT_NE(found[3], 0);
  EXPECT_NEAR(stats.squared_error, 4 + 9, 0.5);
  EXPECT_EQ(stats.squared_weight, 30);
}

TEST(SparseMatrix, TakesThreeBitsAWeightAndItsScales) {
  FormatSpec spec = default_spec(Format::kS4);
  spec.sparse = true;
  EXPECT_DOUBLE_EQ(bits_per_weight(spec, 8, 64), 3.5);
  const PackedLayout layout(spec, 2, 36);
  EXPECT_EQ(layout.code_row_bytes, 9U);
  EXPECT_EQ(layout.position_row_bytes, 5U);
}

TEST(SparseMatrix, FaultsAreNamed) {
  FormatSpec spec = default_spec(Format::kS4);
  spec.sparse = true;
  PackedMatrix matrix(spec, 2, 12);
  expect_error(ErrorCode::kInvalidArgument, "row 1 has more than two weights that are not zero in inputs 4 to 7", [&] {
    matrix.set_codes(1, std::vector<std::uint8_t>{8, 1, 8, 1, 1, 1, 8, 1, 8, 8, 8, 8});
  });
  matrix = quantize(spec, 2, 12, normal_data(24, 3));
  expect_error(ErrorCode::kCorruptFile, "tensor w: row 1, inputs 8 to 11: positions 3 and 1", [&] {
    matrix.positions[3] = std::byte{0x07};  // 3 and 1
    matrix.view().check_finite("f: tensor w");
  });
  matrix.positions.pop_back();
  expect_error(ErrorCode::kCorruptFile, "tensor w: positions take 3 bytes, expected 4",
               [&] { matrix.view().check_sizes("w"); });
  spec.format = Format::kInt3;
  expect_error(ErrorCode::kInvalidArgument, "format int3: sparsity is 2:4, expected none", [&] { validate(spec); });
}

TEST(FormatSpec, BadCombinationsAreRefused) {
  expect_error(ErrorCode::kInvalidArgument, "format mxfp4: group is 64, expected 32", [] {
    validate({Format::kMxfp4, 64, ScaleType::kE8m0, ZeroKind::kNone});
  });
  FormatSpec two_levels = default_spec(Format::kU4);
  two_levels.sub_scale = SubScale::kU6;
  validate(two_levels);
  expect_error(ErrorCode::kUnsupported, "format u4, scales of two levels: is read, not made",
               [&] { quantize(two_levels, 1, 256, std::vector<float>(256, 1.0F)); });
  two_levels.group = 64;
  expect_error(ErrorCode::kInvalidArgument, "format u4: scale is of two levels, expected one level, or groups of 16",
               [&] { validate(two_levels); });
  expect_error(ErrorCode::kInvalidArgument, "expected f16, bf16 or f32", [] {
    validate({Format::kFp4, 32, ScaleType::kE8m0, ZeroKind::kNone});
  });
  expect_error(ErrorCode::kInvalidArgument, "fp4, mxfp4, nvfp4", [] { parse_format("q4_k"); });
  expect_error(ErrorCode::kInvalidArgument, "16, 32, 64, 128 or row", [] { parse_group("48"); });
}

TEST(FormatSpec, BitsPerWeightCountScales) {
  EXPECT_DOUBLE_EQ(bits_per_weight(default_spec(Format::kFp4), 8, 64), 4.5);
  EXPECT_DOUBLE_EQ(bits_per_weight(default_spec(Format::kMxfp4), 8, 64), 4.25);
  EXPECT_DOUBLE_EQ(bits_per_weight(default_spec(Format::kU4), 8, 64), 5.0);
  EXPECT_DOUBLE_EQ(bits_per_weight(default_spec(Format::kInt3), 8, 64), 3.5);
}

}  // namespace
}  // namespace metal_marlin

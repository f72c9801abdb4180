// The dequantization shaders against src/formats, bit for bit: every format and
// group size, both layouts, three output types.
#include "backends/msl/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "formats/codec.h"
#include "formats/small_floats.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

std::size_t size_of(DType type) {
  return type == DType::kF32 ? 4 : 2;
}

std::uint32_t rounded(DType type, float value) {
  if (type == DType::kF16) return f32_to_f16(value);
  if (type == DType::kBf16) return f32_to_bf16(value);
  return std::bit_cast<std::uint32_t>(value);
}

class Dequant : public OnExecutor {
 protected:
  template <typename Matrix>
  std::vector<std::byte> dequantize(const Matrix& matrix, std::int64_t elements, DType type) {
    const auto out = device->allocate(static_cast<std::size_t>(elements) * size_of(type));
    const auto commands = device->commands();
    encode_dequantize(*device, *commands, matrix, type, *out);
    commands->commit();
    commands->wait();
    std::vector<std::byte> bytes(out->size());
    out->download(bytes);
    return bytes;
  }
  std::vector<std::byte> canonical(const PackedView& packed, DType type) {
    return dequantize(make_canonical_matrix(*device, packed), packed.rows * packed.cols, type);
  }

  static void expect_bits(const std::vector<std::byte>& found, const std::vector<float>& expected, DType type,
                          const std::string& what) {
    const std::size_t element = size_of(type);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, found.data() + i * element, element);
      ASSERT_EQ(bits, rounded(type, expected[i]))
          << what << " " << dtype_name(type) << " element " << i << ": " << expected[i];
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Executor, Dequant, testing::ValuesIn(executors()), executor_name);

TEST_P(Dequant, EveryFormatBothLayouts) {
  unsigned seed = 40;
  for (const FormatSpec& spec : kernel_specs()) {
    for (const auto& [rows, cols] : {std::pair(19, 75), std::pair(32, 192)}) {
      if (few_shapes() && rows == 32) continue;
      const TestMatrix matrix = packed_matrix(spec, rows, cols, ++seed);
      const TiledMatrix tiled_matrix = make_tiled_matrix(*device, matrix.packed->view(), test_pool());
      for (const DType type : {DType::kF16, DType::kBf16, DType::kF32}) {
        expect_bits(canonical(matrix.packed->view(), type), matrix.decoded(), type, text(spec) + " canonical");
        expect_bits(dequantize(tiled_matrix, rows * cols, type), matrix.decoded(), type, text(spec) + " units");
      }
    }
  }
}

// All codes, whatever they are: NaN and infinity of FP8 too.
TEST_P(Dequant, EveryCode) {
  for (const FormatInfo& info : all_formats()) {
    FormatSpec spec = default_spec(info.format);
    const std::int64_t cols = 256;
    TestMatrix matrix = packed_matrix(spec, 1, cols, 3);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols));
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i & ((1U << info.bits) - 1));
    pack_codes(info.bits, codes, matrix.packed->codes.data());
    const std::vector<float> expected = matrix.decoded();
    const std::vector<std::byte> found = canonical(matrix.packed->view(), DType::kF32);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      float value = 0;
      std::memcpy(&value, found.data() + 4 * i, 4);
      if (std::isnan(expected[i])) {
        ASSERT_TRUE(std::isnan(value)) << info.name << " code " << int{codes[i]};
      } else {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(expected[i]))
            << info.name << " code " << int{codes[i]};
      }
    }
  }
}

// Scales at the ends of their types. A GPU may flush what is subnormal in f32.
TEST_P(Dequant, ExtremeScales) {
  const bool flushes = GetParam() == Executor::kCuda;
  for (const ScaleType type : {ScaleType::kF16, ScaleType::kBf16, ScaleType::kF32}) {
    FormatSpec spec = default_spec(Format::kFp4);
    spec.scale_type = type;
    TestMatrix matrix = packed_matrix(spec, 3, 96, 5);
    matrix.packed->set_scale(0, 0, 0.0F);
    matrix.packed->set_scale(0, 1, 65504.0F);
    matrix.packed->set_scale(1, 0, 0x1p-24F);
    if (type != ScaleType::kF16) matrix.packed->set_scale(1, 1, flushes ? 0x1p-120F : 0x1p-130F);
    expect_bits(canonical(matrix.packed->view(), DType::kF32), matrix.decoded(), DType::kF32, text(spec));
  }
}

// Rows as an embedding takes them, in any order.
TEST_P(Dequant, EmbedsRowsOfEveryFormat) {
  constexpr std::int64_t kRows = 21;
  constexpr std::int64_t kCols = 75;
  const std::vector<std::int32_t> ids = {20, 0, 7, 8, 15, 16, 8};
  const auto id_buffer = device->allocate_with(ids);
  const auto check = [&](const auto& matrix, const std::vector<float>& decoded, const std::string& what) {
    const auto out = device->allocate(ids.size() * kCols * sizeof(float));
    const auto commands = device->commands();
    encode_embed(*device, *commands, matrix, static_cast<std::int64_t>(ids.size()), *id_buffer, *out);
    commands->commit();
    commands->wait();
    std::vector<float> found(ids.size() * kCols);
    out->download(std::as_writable_bytes(std::span(found)));
    for (std::size_t i = 0; i < found.size(); ++i)
      ASSERT_EQ(found[i], decoded[static_cast<std::size_t>(ids[i / kCols]) * kCols + i % kCols]) << what << " " << i;
  };
  unsigned seed = 90;
  for (const FormatSpec& spec : kernel_specs()) {
    const TestMatrix matrix = packed_matrix(spec, kRows, kCols, ++seed);
    check(make_tiled_matrix(*device, matrix.packed->view(), test_pool()), matrix.decoded(), text(spec));
  }
  for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
    const TestMatrix matrix = dense_matrix(type, kRows, kCols, ++seed);
    check(make_dense_matrix(*device, std::get<DenseView>(matrix.weight.view), kRows, kCols, test_pool()),
          matrix.decoded(), std::string(dtype_name(type)));
  }
}

TEST_P(Dequant, OtherTypesAndSmallResultsAreRefused) {
  const TestMatrix matrix = packed_matrix(default_spec(Format::kFp4), 3, 96, 5);
  const CanonicalMatrix canonical = make_canonical_matrix(*device, matrix.packed->view());
  const auto out = device->allocate(3 * 96 * 2);
  const auto commands = device->commands();
  EXPECT_THROW(encode_dequantize(*device, *commands, canonical, DType::kI8, *out), Error);
  EXPECT_THROW(encode_dequantize(*device, *commands, canonical, DType::kF32, *out), Error);
}

}  // namespace
}  // namespace metal_marlin::msl

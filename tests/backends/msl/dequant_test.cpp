// The dequantization shaders against src/formats, bit for bit: every format and
// group size, both layouts, three output types.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/unit_matrix.h"
#include "formats/codec.h"
#include "formats/small_floats.h"

namespace metal_marlin::msl {
namespace {

// As DequantizeParams in shaders/common/dequantize.h.
struct DequantizeParams {
  std::uint32_t rows, cols, group, groups, row_bytes, zero_bytes, scale_type, zero_kind;
  float global_scale, offset;
};

std::string shader_of(const std::string& codec) {
  if (codec == "e4m3" || codec == "e5m2") return "dequant_fp8";
  if (codec == "int5" || codec == "int6" || codec == "int8") return "dequant_int8";
  if (codec == "int2" || codec == "int3" || codec == "nf2" || codec == "nf3") return "dequant_sub4bit";
  return "dequant";
}

std::uint32_t rounded(const std::string& type, float value) {
  if (type == "half") return f32_to_f16(value);
  if (type == "bfloat") return f32_to_bf16(value);
  return std::bit_cast<std::uint32_t>(value);
}

class Dequant : public OnExecutor {
 protected:
  std::vector<std::byte> finish(Commands& commands, const Buffer& out) {
    commands.commit();
    commands.wait();
    std::vector<std::byte> bytes(out.size());
    out.download(bytes);
    return bytes;
  }

  std::vector<std::byte> canonical(const PackedView& packed, const std::string& type, std::size_t element) {
    const PackedLayout layout(packed.spec, packed.rows, packed.cols);
    DequantizeParams p{};
    p.rows = static_cast<std::uint32_t>(packed.rows);
    p.cols = static_cast<std::uint32_t>(packed.cols);
    p.group = static_cast<std::uint32_t>(packed.spec.group_size(packed.cols));
    p.groups = static_cast<std::uint32_t>(packed.spec.groups(packed.cols));
    p.row_bytes = static_cast<std::uint32_t>(layout.code_row_bytes);
    p.zero_bytes = static_cast<std::uint32_t>(layout.zero_row_bytes);
    p.scale_type = static_cast<std::uint32_t>(packed.spec.scale_type);
    p.zero_kind = static_cast<std::uint32_t>(packed.spec.zero);
    p.global_scale = packed.global_scale;
    const std::span<const float> table = decode_table(packed.spec.format);
    const std::string codec = codec_name(packed.spec.format);
    p.offset = codec.starts_with("int") ? -table[0] : 0;
    const auto codes = device->allocate_with(packed.codes);
    const auto scales = device->allocate_with(packed.scales);
    const auto zeros = device->allocate_with(packed.zeros.empty() ? packed.scales : packed.zeros);
    const auto out = device->allocate(static_cast<std::size_t>(packed.rows * packed.cols) * element);
    const auto commands = device->commands();
    commands->dispatch_threads(
        device->pipeline(shader_of(codec), "dequant_" + codec + "_" + type), {p.cols, p.rows, 1}, {32, 4, 1},
        Arguments().buffer(0, *codes).buffer(1, *scales).buffer(2, *zeros).buffer(3, *out).bytes(4, p));
    return finish(*commands, *out);
  }

  std::vector<std::byte> units(const UnitMatrix& m, const std::string& type, std::size_t element) {
    const auto out = device->allocate(m.params.rows * static_cast<std::size_t>(m.cols) * element);
    const auto cols = static_cast<std::uint32_t>(m.cols);
    const auto commands = device->commands();
    commands->dispatch(device->pipeline(shader_of(m.codec), "dequant_units_" + m.codec + "_" + type),
                       {m.params.units, (m.params.rows + 15) / 16, 1}, {32, 1, 1},
                       Arguments()
                           .buffer(0, *m.codes)
                           .buffer(1, *m.scales)
                           .buffer(2, *m.minima)
                           .buffer(3, *out)
                           .bytes(4, m.params)
                           .bytes(5, cols));
    return finish(*commands, *out);
  }

  static void expect_bits(const std::vector<std::byte>& found, const std::vector<float>& expected,
                          const std::string& type, std::size_t element, const std::string& what) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, found.data() + i * element, element);
      ASSERT_EQ(bits, rounded(type, expected[i])) << what << " " << type << " element " << i << ": " << expected[i];
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Executor, Dequant, testing::ValuesIn(executors()), executor_name);

constexpr std::pair<const char*, std::size_t> kTypes[] = {{"half", 2}, {"bfloat", 2}, {"float", 4}};

TEST_P(Dequant, EveryFormatBothLayouts) {
  unsigned seed = 40;
  for (const FormatSpec& spec : kernel_specs()) {
    for (const auto& [rows, cols] : {std::pair(19, 75), std::pair(32, 192)}) {
      if (detectors() && rows == 32) continue;
      const TestMatrix matrix = packed_matrix(spec, rows, cols, ++seed);
      const UnitMatrix unit_matrix = make_unit_matrix(*device, "w", matrix.packed->view(), test_pool());
      for (const auto& [type, element] : kTypes) {
        expect_bits(canonical(matrix.packed->view(), type, element), matrix.decoded(), type, element,
                    text(spec) + " canonical");
        expect_bits(units(unit_matrix, type, element), matrix.decoded(), type, element, text(spec) + " units");
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
    const std::vector<std::byte> found = canonical(matrix.packed->view(), "float", 4);
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
    expect_bits(canonical(matrix.packed->view(), "float", 4), matrix.decoded(), "float", 4, text(spec));
  }
}

}  // namespace
}  // namespace metal_marlin::msl

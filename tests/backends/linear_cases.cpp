#include "backends/linear_cases.h"

#include <bit>
#include <random>

#include "formats/group_scale.h"
#include "formats/small_floats.h"

namespace metal_marlin {

std::vector<float> normal_data(std::size_t n, unsigned seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(random);
  return out;
}

std::vector<float> TestMatrix::decoded() const {
  std::vector<float> out(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) weight.decode_row(r, cols, out.data() + r * cols);
  return out;
}

TestMatrix packed_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, unsigned seed) {
  const auto data = normal_data(static_cast<std::size_t>(rows * cols), seed, 0.05F);
  const RowReader read = [&](std::int64_t row, float* out) { std::copy_n(data.begin() + row * cols, cols, out); };
  const float global = spec.format == Format::kNvfp4 ? nvfp4_global_scale(0.25F) : 1.0F;
  TestMatrix matrix{
      {}, std::make_shared<PackedMatrix>(quantize_matrix(spec, rows, cols, read, global, test_pool())), {}, rows, cols};
  matrix.weight = {matrix.packed->view(), matrix.packed};
  return matrix;
}

TestMatrix dense_matrix(DType type, std::int64_t rows, std::int64_t cols, unsigned seed) {
  TestMatrix matrix{{}, nullptr, {}, rows, cols};
  for (const float x : normal_data(static_cast<std::size_t>(rows * cols), seed, 0.05F)) {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    std::size_t bytes = 4;
    if (type == DType::kF16) {
      bits = f32_to_f16(x);
      bytes = 2;
    } else if (type == DType::kBf16) {
      bits = f32_to_bf16(x);
      bytes = 2;
    }
    const auto* const source = reinterpret_cast<const std::byte*>(&bits);
    matrix.dense.insert(matrix.dense.end(), source, source + bytes);
  }
  matrix.weight = {DenseView{type, {rows, cols}, matrix.dense}, nullptr};
  return matrix;
}

std::vector<FormatSpec> kernel_specs() {
  std::vector<FormatSpec> specs;
  for (const FormatInfo& info : all_formats()) {
    const FormatSpec base = default_spec(info.format);
    specs.push_back(base);
    if (info.format == Format::kMxfp4 || info.format == Format::kNvfp4) continue;
    for (const int group : {16, 64, 128, 0}) {
      FormatSpec spec = base;
      spec.group = group;
      spec.scale_type = group == 16 ? ScaleType::kBf16 : group == 64 ? ScaleType::kF32 : ScaleType::kF16;
      specs.push_back(spec);
    }
  }
  specs.push_back({Format::kU4, 32, ScaleType::kF16, ZeroKind::kInteger});
  specs.push_back({Format::kU4, 16, ScaleType::kF32, ZeroKind::kInteger});
  return specs;
}

std::vector<FormatSpec> sparse_specs() {
  std::vector<FormatSpec> specs{default_spec(Format::kFp4),
                                default_spec(Format::kMxfp4),
                                default_spec(Format::kNvfp4),
                                default_spec(Format::kS4),
                                {Format::kS4, 128, ScaleType::kBf16, ZeroKind::kNone},
                                {Format::kFp4, 16, ScaleType::kF32, ZeroKind::kNone},
                                {Format::kS4, 0, ScaleType::kF16, ZeroKind::kNone}};
  for (FormatSpec& spec : specs) spec.sparse = true;
  return specs;
}

std::string text(const FormatSpec& spec) {
  return format_label(spec) + "/" + group_name(spec.group) + "/" + std::string(scale_type_name(spec.scale_type));
}

}  // namespace metal_marlin

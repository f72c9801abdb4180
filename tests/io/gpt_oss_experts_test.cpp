// Experts as gpt-oss' folders have them. Whole models: tests/models/golden_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kExperts = 2;
constexpr std::int64_t kInputs = 64;
constexpr std::int64_t kOutputs = 6;  // of gates, and of what they open, in turns
const std::string kPrefix = "model.layers.0.mlp.experts.";

struct Tensor {
  TensorPlan plan;
  std::vector<std::byte> bytes;
};

// Each byte, or each number, tells its place.
Tensor bytes_of(const std::string& name, const Shape& shape, std::size_t modulus = 251) {
  Tensor out{{kPrefix + name, DType::kU8, shape}, {}};
  out.bytes.resize(out.plan.bytes());
  for (std::size_t i = 0; i < out.bytes.size(); ++i) out.bytes[i] = static_cast<std::byte>(i % modulus);
  return out;
}
Tensor numbers_of(const std::string& name, const Shape& shape) {
  Tensor out{{kPrefix + name, DType::kF32, shape}, {}};
  std::vector<float> values(static_cast<std::size_t>(*element_count(shape)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto bytes = std::as_bytes(std::span(values));
  out.bytes.assign(bytes.begin(), bytes.end());
  return out;
}

std::unique_ptr<Checkpoint> open_made(const std::filesystem::path& folder, const std::vector<Tensor>& tensors,
                                      const Json& quantization) {
  Json config = {{"model_type", "gpt_oss"}};
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  std::ofstream(folder / "config.json") << config.dump();
  std::vector<TensorPlan> plan;
  for (const Tensor& tensor : tensors) plan.push_back(tensor.plan);
  SafetensorsWriter writer(folder / "model.safetensors", plan);
  for (const Tensor& tensor : tensors) writer.write(tensor.bytes);
  writer.finish();
  return open_checkpoint(folder);
}

std::vector<Tensor> packed_experts() {
  return {bytes_of("gate_up_proj_blocks", {kExperts, 2 * kOutputs, 2, 16}),
          bytes_of("gate_up_proj_scales", {kExperts, 2 * kOutputs, 2}, 200),
          numbers_of("gate_up_proj_bias", {kExperts, 2 * kOutputs}), numbers_of("down_proj_bias", {kExperts, kInputs})};
}
const Json kMxfp4 = {{"quant_method", "mxfp4"},
                     {"modules_to_not_convert", {"model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"}}};

TEST(GptOssExperts, StayPacked) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  const std::vector<Tensor> tensors = packed_experts();
  const auto checkpoint = open_made(folder.path(), tensors, kMxfp4);
  EXPECT_EQ(checkpoint->kind(), "MXFP4");
  EXPECT_EQ(checkpoint->weights().size(), 10U);  // of two experts: gate, up and three biases each
  for (std::int64_t expert = 0; expert < kExperts; ++expert) {
    for (const bool up : {false, true}) {
      const std::string name = kPrefix + std::to_string(expert) + (up ? ".up_proj.weight" : ".gate_proj.weight");
      EXPECT_EQ(checkpoint->require(name, {kOutputs, kInputs}).stored_as, "mxfp4");
      const Weight weight = checkpoint->load(name, pool);
      ASSERT_TRUE(weight.packed());
      const auto& view = std::get<PackedView>(weight.view);
      EXPECT_EQ(view.spec, default_spec(Format::kMxfp4));
      std::vector<std::uint8_t> codes(kInputs);
      for (std::int64_t row = 0; row < kOutputs; ++row) {
        const std::int64_t stored = expert * 2 * kOutputs + 2 * row + (up ? 1 : 0);
        view.unpack_row(row, codes.data());
        for (std::int64_t i = 0; i < kInputs; ++i) {
          const auto byte = std::to_integer<unsigned>(tensors[0].bytes[static_cast<std::size_t>(stored * 32 + i / 2)]);
          ASSERT_EQ(codes[static_cast<std::size_t>(i)], i % 2 == 0 ? byte & 15U : byte >> 4U);
        }
        for (std::int64_t group = 0; group < 2; ++group) {
          const auto scale = std::to_integer<int>(tensors[1].bytes[static_cast<std::size_t>(stored * 2 + group)]);
          ASSERT_EQ(view.scale(row, group), std::ldexp(1.0F, scale - 127));
        }
      }
    }
  }
}

TEST(GptOssExperts, AreTurnedAround) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  const auto checkpoint = open_made(
      folder.path(),
      {numbers_of("gate_up_proj", {kExperts, kInputs, 2 * kOutputs}),
       numbers_of("gate_up_proj_bias", {kExperts, 2 * kOutputs}),
       numbers_of("down_proj", {kExperts, kOutputs, kInputs}), numbers_of("down_proj_bias", {kExperts, kInputs})},
      nullptr);
  EXPECT_EQ(checkpoint->kind(), "dense");
  const auto check = [&](const std::string& name, const Shape& shape, const auto& expected) {
    checkpoint->require(kPrefix + name, shape);
    const Weight weight = checkpoint->load(kPrefix + name, pool);
    const std::int64_t cols = shape.size() == 2 ? shape[1] : shape[0];
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t r = 0; r < (shape.size() == 2 ? shape[0] : 1); ++r) {
      weight.decode_row(r, cols, row.data());
      for (std::int64_t c = 0; c < cols; ++c)
        ASSERT_EQ(row[static_cast<std::size_t>(c)], static_cast<float>(expected(r, c))) << name << " " << r << " " << c;
    }
  };
  const std::int64_t wide = 2 * kOutputs;
  check("1.gate_proj.weight", {kOutputs, kInputs}, [&](auto r, auto c) { return (kInputs + c) * wide + 2 * r; });
  check("1.up_proj.weight", {kOutputs, kInputs}, [&](auto r, auto c) { return (kInputs + c) * wide + 2 * r + 1; });
  check("1.down_proj.weight", {kInputs, kOutputs}, [&](auto r, auto c) { return (kOutputs + c) * kInputs + r; });
  check("1.gate_proj.bias", {kOutputs}, [&](auto, auto c) { return wide + 2 * c; });
  check("0.up_proj.bias", {kOutputs}, [&](auto, auto c) { return 2 * c + 1; });
  check("1.down_proj.bias", {kInputs}, [&](auto, auto c) { return kInputs + c; });
}

TEST(GptOssExperts, OfOtherFormsAreRefused) {
  const auto refused = [](ErrorCode code, const std::string& text, const std::vector<Tensor>& tensors,
                          const Json& quantization) {
    const TemporaryFolder folder;
    expect_error(code, text, [&] { open_made(folder.path(), tensors, quantization); });
  };
  std::vector<Tensor> tensors = packed_experts();
  tensors.erase(tensors.begin() + 1);
  refused(ErrorCode::kNotFound, "tensor " + kPrefix + "gate_up_proj_scales is missing", tensors, kMxfp4);
  for (const Shape& shape : {Shape{kExperts, 3, 2, 16}, Shape{kExperts, 4, 2, 8}, Shape{kExperts, 4, 32}}) {
    tensors = packed_experts();
    tensors[0] = bytes_of("gate_up_proj_blocks", shape);
    refused(ErrorCode::kCorruptFile, "gate_up_proj_blocks: found U8", tensors, kMxfp4);
  }
  tensors = packed_experts();
  tensors[1] = bytes_of("gate_up_proj_scales", {kExperts, 2 * kOutputs, 3});
  refused(ErrorCode::kCorruptFile, "gate_up_proj_scales: found U8 [2, 12, 3], expected U8 [2, 12, 2]", tensors, kMxfp4);
  tensors = packed_experts();
  tensors[2] = numbers_of("gate_up_proj_bias", {kExperts, 3});
  refused(ErrorCode::kCorruptFile, "gate_up_proj_bias: found F32", tensors, kMxfp4);
  Json quantization = kMxfp4;
  quantization["modules_to_not_convert"].push_back("model.layers.0.mlp.experts");
  refused(ErrorCode::kCorruptFile, "says that model.layers.0.mlp.experts.0.gate_proj is not quantized",
          packed_experts(), quantization);
  quantization = kMxfp4;
  quantization["group_size"] = 16;
  refused(ErrorCode::kUnsupported, "group_size", packed_experts(), quantization);
}

// The exponent 255 is no number.
TEST(GptOssExperts, OfScalesThatAreNoNumbersAreRefused) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  std::vector<Tensor> tensors = packed_experts();
  tensors[1].bytes[3] = std::byte{255};
  const auto checkpoint = open_made(folder.path(), tensors, kMxfp4);
  EXPECT_TRUE(checkpoint->load(kPrefix + "0.gate_proj.weight", pool).packed());
  expect_error(ErrorCode::kCorruptFile, "0.up_proj.weight",
               [&] { static_cast<void>(checkpoint->load(kPrefix + "0.up_proj.weight", pool)); });
}

}  // namespace
}  // namespace metal_marlin

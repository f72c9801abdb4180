// ONNX files that PyTorch's exporters wrote, against the model that they were made of, and files made here.
#include "io/onnx.h"

#include <gtest/gtest.h>

#include <fstream>

#include "formats/small_floats.h"
#include "metal_marlin/error.h"
#include "metal_marlin/inspect.h"
#include "metal_marlin/quantize.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

class OnnxModel : public testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path folder_ = test_data("onnx") / GetParam();
};
INSTANTIATE_TEST_SUITE_P(Exporters, OnnxModel, testing::Values("torchscript", "dynamo"),
                         [](const auto& test) { return std::string(test.param); });

// The same weights in f32, so the same logits to the last bit.
TEST_P(OnnxModel, IsTheModelItWasMadeOf) {
  const auto model = fixture("llama-bias-linear");
  const TemporaryFolder folder;
  write_decoded(model, folder.path() / "f32");
  EXPECT_EQ(last_logits(folder_, true), last_logits(folder.path() / "f32", true));
  EXPECT_EQ(last_logits(folder_ / "model.onnx", true), last_logits(folder_, true));
  ThreadPool pool(2);
  const auto found = open_checkpoint(folder_);
  const auto expected = open_checkpoint(model);
  EXPECT_EQ(found->kind(), "ONNX");
  for (const WeightInfo& info : expected->weights()) {
    ASSERT_NE(found->find(info.name), nullptr) << info.name;
    ASSERT_EQ(found->find(info.name)->shape, info.shape) << info.name;
    const std::int64_t cols = info.shape.back();
    std::vector<float> a(static_cast<std::size_t>(cols));
    std::vector<float> b(a.size());
    for (std::int64_t row = 0; row < *element_count(info.shape) / cols; ++row) {
      found->load(info.name, pool).decode_row(row, cols, a.data());
      expected->load(info.name, pool).decode_row(row, cols, b.data());
      ASSERT_EQ(a, b) << info.name << " row " << row;
    }
  }
}

TEST_P(OnnxModel, CanBeQuantized) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  quantize(folder_, folder.path() / "onnx", options);
  quantize(fixture("llama-bias-linear"), folder.path() / "safetensors", options);
  EXPECT_EQ(last_logits(folder.path() / "onnx", true), last_logits(folder.path() / "safetensors", true));
}

// Messages by hand: a tag is a field's number times 8 and the kind of what follows.
std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string field(int number, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(number) * 8) + varint(value);
}
std::string field(int number, const std::string& bytes) {
  return varint(static_cast<std::uint64_t>(number) * 8 + 2) + varint(bytes.size()) + bytes;
}
std::string entry(const std::string& key, const std::string& value) {
  return field(1, key) + field(2, value);
}
std::string tensor(const std::string& name, std::initializer_list<std::uint64_t> dims, std::uint64_t type,
                   const std::string& rest) {
  std::string out;
  for (const std::uint64_t dim : dims) out += field(1, dim);
  return out + field(2, type) + field(8, name) + rest;
}
std::string node(const std::string& op, const std::string& name, const std::vector<std::string>& inputs,
                 const std::string& rest = "") {
  std::string out;
  for (const std::string& input : inputs) out += field(1, input);
  return out + field(2, "y") + field(3, name) + field(4, op) + rest;
}
std::string model(const std::vector<std::string>& tensors, const std::vector<std::string>& nodes = {}) {
  std::string graph;
  for (const std::string& n : nodes) graph += field(1, n);
  for (const std::string& t : tensors) graph += field(5, t);
  return field(1, 10) + field(7, graph);
}
std::string raw(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

class OnnxBytes : public testing::Test {
 protected:
  std::map<std::string, std::vector<float>> read(const std::string& text) {
    const OnnxFile file(std::as_bytes(std::span(text)), folder_.path(), "m.onnx");
    std::map<std::string, std::vector<float>> out;
    for (const auto& [name, weight] : file.weights()) {
      auto& values = out[name];
      values.resize(static_cast<std::size_t>(element_count(weight.view.shape).value()));
      convert_to_f32(weight.view.dtype, weight.view.bytes, 0, values.size(), values.data());
    }
    return out;
  }
  TemporaryFolder folder_;
};

TEST_F(OnnxBytes, NumbersInEveryField) {
  std::string halves;
  for (const float x : {1.5F, -2.0F}) halves += varint(f32_to_f16(x));
  std::string brains;
  for (const float x : {1.5F, -2.0F}) brains += varint(f32_to_bf16(x));
  const double doubles[] = {1.5, -2.0};
  const std::vector<float> expected{1.5F, -2.0F};
  const auto found = read(
      model({tensor("a.weight", {2}, 1, field(9, raw(expected))), tensor("b.weight", {2}, 1, field(4, raw(expected))),
             tensor("c.weight", {2}, 10, field(5, halves)), tensor("d.weight", {2}, 16, field(5, brains)),
             tensor("e.weight", {2}, 11, field(10, std::string(reinterpret_cast<const char*>(doubles), 16))),
             tensor("f.weight", {2}, 7, field(9, std::string(16, '\1'))),  // integers
             tensor("shape", {2}, 1, field(9, raw(expected)))}));
  EXPECT_EQ(found.size(), 5U);
  for (const auto& [name, values] : found) EXPECT_EQ(values, expected) << name;
}

TEST_F(OnnxBytes, ExternalDataIsFoundWhereItSays) {
  std::ofstream(folder_.path() / "data", std::ios::binary) << "1234" << raw({3, 4, 5, 6});
  const auto with = [&](const std::string& location, const std::string& offset, const std::string& length) {
    return model({tensor("a.weight", {4}, 1,
                         field(13, entry("location", location)) + field(13, entry("offset", offset)) +
                             field(13, entry("length", length)) + field(14, 1))});
  };
  EXPECT_EQ(read(with("data", "4", "16")).at("a.weight"), (std::vector<float>{3, 4, 5, 6}));
  expect_error(ErrorCode::kCorruptFile, "m.onnx: tensor a.weight: external data at 8 to 24",
               [&] { read(with("data", "8", "16")); });
  expect_error(ErrorCode::kCorruptFile, "12 bytes of F32 [4], expected 16", [&] { read(with("data", "4", "12")); });
  expect_error(ErrorCode::kCorruptFile, "external data at", [&] { read(with("data", "18446744073709551615", "16")); });
  expect_error(ErrorCode::kCorruptFile, "offset is '-4', expected a number", [&] { read(with("data", "-4", "16")); });
  expect_error(ErrorCode::kNotFound, "none", [&] { read(with("none", "0", "16")); });
  for (const char* const location : {"../data", "/etc/passwd", ""}) {
    expect_error(ErrorCode::kCorruptFile, "expected a file beside the model", [&] { read(with(location, "0", "16")); });
  }
}

TEST_F(OnnxBytes, NamesComeFromNodes) {
  const std::string two = field(9, raw({1, 2}));
  const std::string turned = field(5, field(1, "transB") + field(3, 1));
  const std::string scopes = "['', 'model', 'model.embed_tokens', 'embedding']";
  const std::string text =
      model({tensor("x1", {1, 2}, 1, two), tensor("x2", {1, 2}, 1, two), tensor("x3", {2}, 1, two),
             tensor("lm_head.weight", {1, 2}, 1, two), tensor("unused", {2}, 1, two)},
            {node("MatMul", "/model/layers.3/mlp/up_proj/MatMul", {"h", "x1"}),
             node("Gemm", "/model/layers.3/mlp/down_proj/Gemm", {"h", "x2", "x3"}, turned),
             node("Gather", "n", {"lm_head.weight", "ids"}, field(9, entry("pkg.torch.onnx.name_scopes", scopes)))});
  const OnnxFile file(std::as_bytes(std::span(text)), ".", "m.onnx");
  const auto& weights = file.weights();
  ASSERT_EQ(weights.size(), 5U);
  EXPECT_EQ(weights.at("model.layers.3.mlp.up_proj.weight").shape(), (Shape{2, 1}));
  EXPECT_EQ(weights.at("model.layers.3.mlp.down_proj.weight").shape(), (Shape{1, 2}));
  EXPECT_EQ(weights.at("model.layers.3.mlp.down_proj.bias").shape(), (Shape{2}));
  EXPECT_EQ(weights.at("model.embed_tokens.weight").initializer, "lm_head.weight");
  EXPECT_EQ(weights.at("lm_head.weight").shape(), (Shape{1, 2}));
}

TEST_F(OnnxBytes, FaultsAreNamed) {
  const std::string two = field(9, raw({1, 2}));
  expect_error(ErrorCode::kCorruptFile, "m.onnx: is a text that begins 'hello'", [&] { read("hello"); });
  expect_error(ErrorCode::kCorruptFile, "m.onnx: no ONNX model", [&] { read("\xff\xfe\x01"); });
  expect_error(ErrorCode::kCorruptFile, "m.onnx: is empty", [&] { read(""); });
  expect_error(ErrorCode::kCorruptFile, "tensor a.weight: 8 bytes of F32 [3], expected 12",
               [&] { read(model({tensor("a.weight", {3}, 1, two)})); });
  expect_error(ErrorCode::kCorruptFile, "tensor a.weight: shape", [&] {
    read(model({tensor("a.weight", {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 1, two)}));
  });
  expect_error(ErrorCode::kCorruptFile, "tensor a.weight: a second one", [&] {
    read(model({tensor("a.weight", {2}, 1, two), tensor("a.weight", {2}, 1, two)}));
  });
  expect_error(ErrorCode::kUnsupported, "node q is MatMulNBits: quantized ONNX weights are not read", [&] {
    read(model({}, {node("MatMulNBits", "q", {"a", "b"})}));
  });
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "model.onnx") << "hello";
  expect_error(ErrorCode::kNotFound, "no config.json: not a model's folder", [&] { open_checkpoint(folder.path()); });
}

}  // namespace
}  // namespace metal_marlin

#include "metal_marlin/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "formats/small_floats.h"
#include "io/checkpoint.h"
#include "metal_marlin/generate.h"
#include "metal_marlin/inspect.h"
#include "models/golden.h"
#include "quantized_models.h"

namespace metal_marlin {
namespace {

FormatSpec spec_of(const char* format, const char* group = "32", ScaleType type = ScaleType::kF16,
                   ZeroKind zero = ZeroKind::kNone) {
  const std::string_view name = format;
  FormatSpec spec = default_spec(parse_format(name.substr(0, name.find(' '))));
  spec.sparse = name.ends_with(" 2:4");
  if (spec.scale_type == ScaleType::kE8m0 || spec.scale_type == ScaleType::kE4m3) return spec;
  spec.group = parse_group(group);
  spec.scale_type = type;
  if (zero != ZeroKind::kNone) spec.zero = zero;
  return spec;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class QuantizedModel : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Formats, QuantizedModel,
                         testing::Values("fp4", "mxfp4", "nvfp4", "u4", "s4", "nf4", "nf3", "nf2", "int2", "int3",
                                         "int5", "int6", "int8", "fp8-e4m3", "fp8-e5m2", "s4 2:4", "nvfp4 2:4"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

TEST_P(QuantizedModel, RunsAsItsDecodedWeightsDo) {
  const TemporaryFolder folder;
  for (const char* const model :
       {"llama-bias-linear", "qwen3-tiny"}) {  // widths that groups do not divide, and ones they do
    for (const char* const group : {"32", "128"}) {
      const auto target = folder.path() / (std::string(model) + group);
      QuantizeOptions options;
      options.spec = spec_of(GetParam(), group);
      options.threads = 2;
      const QuantizeReport report = quantize(fixture(model), target, options);
      EXPECT_EQ(report.quant_method, "metal-marlin");
      expect_runs_as_decoded(target, folder.path() / "decoded");
    }
  }
}

// What the compressed-tensors package makes of folders written by this code.
struct CompressedCase {
  const char* name;
  FormatSpec spec;
};
class CompressedTensors : public testing::TestWithParam<CompressedCase> {};
INSTANTIATE_TEST_SUITE_P(Schemes, CompressedTensors,
                         testing::Values(CompressedCase{"int4", spec_of("s4", "128", ScaleType::kBf16)},
                                         CompressedCase{"int4g32", spec_of("s4")},
                                         CompressedCase{"int8", spec_of("int8", "64")},
                                         CompressedCase{"u4", spec_of("u4", "32", ScaleType::kF16, ZeroKind::kInteger)},
                                         CompressedCase{"fp8", spec_of("fp8-e4m3", "row", ScaleType::kF32)},
                                         CompressedCase{"nvfp4", spec_of("nvfp4")}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(CompressedTensors, PackageDecompressesOurFoldersToOurValues) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = GetParam().spec;
  options.embedding.reset();
  const auto target = folder.path() / "model";
  EXPECT_EQ(quantize(fixture("llama-tiny"), target, options).quant_method, "compressed-tensors");
  const SafetensorsFile expected(test_data("compressed_tensors.safetensors"));
  ThreadPool pool(1);
  const auto checkpoint = open_checkpoint(target);
  EXPECT_EQ(checkpoint->kind(), "compressed-tensors");
  for (const std::string module : {"model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"}) {
    const auto values = read_tensor<float>(expected, std::string(GetParam().name) + "/" + module);
    const Weight weight = checkpoint->load(module + ".weight", pool);
    std::vector<float> row(128);
    for (std::size_t r = 0; r < values.size() / 128; ++r) {
      weight.decode_row(static_cast<std::int64_t>(r), 128, row.data());
      for (std::size_t i = 0; i < 128; ++i) {
        // The package gives NVFP4 in bf16.
        const float ours = GetParam().spec.format == Format::kNvfp4 ? bf16_to_f32(f32_to_bf16(row[i])) : row[i];
        ASSERT_EQ(ours, values[r * 128 + i]) << module << " [" << r << ", " << i << "]";
      }
    }
  }
}

TEST_P(CompressedTensors, FoldersLoadAndRun) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = GetParam().spec;
  options.embedding.reset();
  quantize(fixture("llama-tiny"), folder.path() / "model", options);
  write_decoded(folder.path() / "model", folder.path() / "decoded");
  EXPECT_LT(relative_error(last_logits(folder.path() / "model", true), last_logits(folder.path() / "decoded", true)),
            5e-6);
}

TEST(Quantize, NvfpGlobalScaleIsSharedByFusedLayers) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = spec_of("nvfp4");
  options.embedding.reset();
  // Every matrix of the fixture has the same largest weight; make k and up larger.
  write_decoded(fixture("llama-tiny"), folder.path() / "source", [](const std::string& name) {
    return name.find("k_proj") != std::string::npos ? 2.0F : name.find("up_proj") != std::string::npos ? 4.0F : 1.0F;
  });
  quantize(folder.path() / "source", folder.path() / "model", options);
  const SafetensorsFolder tensors(folder.path() / "model");
  const auto scale = [&](const char* module) {
    float value = 0;
    std::memcpy(&value, tensors.find(std::string("model.layers.0.") + module + ".weight_global_scale")->bytes.data(),
                sizeof(value));
    return value;
  };
  EXPECT_EQ(scale("self_attn.q_proj"), scale("self_attn.k_proj"));
  EXPECT_EQ(scale("self_attn.q_proj"), scale("self_attn.v_proj"));
  EXPECT_EQ(scale("mlp.gate_proj"), scale("mlp.up_proj"));
  EXPECT_EQ(scale("self_attn.o_proj"), 2 * scale("self_attn.q_proj"));
  EXPECT_EQ(scale("self_attn.o_proj"), 4 * scale("mlp.gate_proj"));
}

TEST(Quantize, RulesChooseWhatIsQuantized) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = spec_of("fp4");
  options.include = {"mlp"};
  options.exclude = {"layers\\.0\\.", "embed"};
  quantize(fixture("llama-tiny"), folder.path() / "model", options);
  for (const InspectedTensor& tensor : inspect(folder.path() / "model").tensors) {
    std::string expected = "BF16";
    if (tensor.name == "lm_head.weight") expected = "int8";
    if (tensor.name.find("mlp") != std::string::npos && tensor.name.find("layers.0.") == std::string::npos)
      expected = "fp4";
    EXPECT_EQ(tensor.stored_as, expected) << tensor.name;
  }
  EXPECT_FALSE(last_logits(folder.path() / "model", true).empty());
}

// By rounding, and by GPTQ on a text: of every fixture that stands for an architecture or a form of one.
TEST(Quantize, EveryArchitecture) {
  const TemporaryFolder folder;
  std::ofstream text(folder.path() / "text.txt");
  for (int i = 0; i < 600; ++i) text << static_cast<char>('!' + i * i % 94);
  text.close();
  const auto logits = [](const std::filesystem::path& model) {
    return last_logits(model, true, "cpu", {5, 17, 120, 3, 99, 42, 8, 110, 77, 31});  // the least vocabulary has 128
  };
  for (const std::string& name : golden_models()) {
    const std::filesystem::path source = folder.path() / name;
    copy_with_tokenizer(fixture(name.c_str()), source);
    const std::vector<float> expected = logits(source);
    QuantizeOptions options;
    options.spec = spec_of("int8");
    quantize(source, folder.path() / (name + "-int8"), options);
    EXPECT_LT(relative_error(logits(folder.path() / (name + "-int8")), expected), 0.05) << name;
    options.spec = spec_of("int6", "16");
    options.method = QuantizeMethod::kGptq;
    options.calibration = folder.path() / "text.txt";
    options.threads = 2;
    quantize(source, folder.path() / (name + "-gptq"), options);
    EXPECT_LT(relative_error(logits(folder.path() / (name + "-gptq")), expected), 0.3) << name;
  }
}

TEST(Quantize, ShardsHoldTheSameModel) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = spec_of("int5");
  quantize(fixture("qwen3-tiny"), folder.path() / "one", options);
  options.shard_bytes = 100000;
  quantize(fixture("qwen3-tiny"), folder.path() / "many", options);
  int shards = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "many"))
    shards += entry.path().extension() == ".safetensors" ? 1 : 0;
  EXPECT_GT(shards, 2);
  EXPECT_EQ(last_logits(folder.path() / "one", true), last_logits(folder.path() / "many", true));
}

TEST(Quantize, ResultDoesNotDependOnThreads) {
  const TemporaryFolder folder;
  for (const int threads : {1, 3}) {
    QuantizeOptions options;
    options.spec = spec_of("fp4");
    options.threads = threads;
    quantize(fixture("qwen3-tiny"), folder.path() / std::to_string(threads), options);
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "1")) {
    if (entry.path().stem() == "quantization_report") continue;  // has the time that it took
    EXPECT_EQ(read_file(entry.path()), read_file(folder.path() / "3" / entry.path().filename())) << entry.path();
  }
}

TEST(Quantize, AQuantizedFolderCanBeQuantizedAgain) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = spec_of("int8");
  quantize(fixture("qwen3-tiny"), folder.path() / "int8", options);
  options.spec = spec_of("s4");
  quantize(folder.path() / "int8", folder.path() / "s4", options);
  EXPECT_LT(relative_error(last_logits(folder.path() / "s4", true), last_logits(fixture("qwen3-tiny"), true)), 0.4);
}

// Only what the next run goes on with.
TEST(Quantize, CancellingLeavesNoModel) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = spec_of("fp4");
  options.progress = [](const QuantizeProgress& progress) { return progress.done_weights == 0; };
  expect_error(ErrorCode::kCancelled, "cancelled",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "model", options); });
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    left.push_back(entry.path().filename().string());
  ASSERT_EQ(left.size(), 1U);
  EXPECT_TRUE(left.front().starts_with("model.partial-")) << left.front();
  EXPECT_FALSE(std::filesystem::exists(folder.path() / left.front() / "config.json"));
}

TEST(Quantize, FaultsAreNamed) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = spec_of("fp4");
  options.include = {"("};
  expect_error(ErrorCode::kUnsupported, "include: pattern '('",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "x", options); });
  options.include.clear();
  options.spec.format = Format::kIq4Nl;
  expect_error(ErrorCode::kInvalidArgument, "can be read but not written",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "x", options); });
}

class QuantizedGguf : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Models, QuantizedGguf, testing::ValuesIn(golden_models("gguf")), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(QuantizedGguf, LogitsAreNear) {
  const Golden golden(GetParam(), "gguf");
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.spec = default_spec(Format::kInt8);
  quantize(golden.folder / "model.gguf", folder.path() / "model", options);
  const auto model = Model::load(folder.path() / "model", exact());
  // Where roundings make a router choose other experts, a position is off by more: here about one in ten.
  const double bound = GetParam() == "gemma4-experts" ? 0.15 : 0.06;
  EXPECT_LT(relative_error(logits_in_chunks(model, golden.ids, golden.ids.size()), golden.logits), bound);
}

// A copy of a fixture with one thing changed.
class BrokenModel : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::copy(fixture("llama-tiny"), path_);
    for (const char* const other : {"golden.safetensors", "embeddings.safetensors"})
      std::filesystem::remove(path_ / other);
  }
  void change_config(const std::function<void(Json&)>& change) {
    Json config = read_json_file(path_ / "config.json");
    change(config);
    std::ofstream(path_ / "config.json") << config.dump();
  }
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model";
};

TEST_F(BrokenModel, MissingTensorIsNamed) {
  change_config([](Json& config) { config["num_hidden_layers"] = 4; });
  expect_error(ErrorCode::kNotFound, "tensor model.layers.3.input_layernorm.weight is missing",
               [&] { Model::load(path_); });
}

TEST_F(BrokenModel, WrongShapeIsNamed) {
  change_config([](Json& config) { config["intermediate_size"] = 260; });
  expect_error(ErrorCode::kCorruptFile,
               "model.layers.0.mlp.gate_proj.weight: shape [256, 128], the configuration asks for [260, 128]",
               [&] { Model::load(path_); });
}

TEST_F(BrokenModel, UnknownQuantizationIsNamed) {
  change_config([](Json& config) { config["quantization_config"] = {{"quant_method", "quip"}}; });
  expect_error(ErrorCode::kUnsupported, "quant_method is 'quip', expected metal-marlin, compressed-tensors, gptq, awq",
               [&] { Model::load(path_); });
}

TEST_F(BrokenModel, TruncatedWeightsAreNamed) {
  std::filesystem::resize_file(path_ / "model.safetensors", 100000);
  expect_error(ErrorCode::kCorruptFile, "model.safetensors: tensor", [&] { Model::load(path_); });
}

TEST_F(BrokenModel, MissingFilesAreNamed) {
  std::filesystem::remove(path_ / "model.safetensors");
  expect_error(ErrorCode::kNotFound, "no model.safetensors and no shards of it", [&] { Model::load(path_); });
  std::filesystem::remove(path_ / "config.json");
  expect_error(ErrorCode::kNotFound, "no config.json: not a model's folder", [&] { Model::load(path_); });
}

}  // namespace
}  // namespace metal_marlin

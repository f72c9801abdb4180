// Models as people have them, with the logits that the reference implementation gives for 12 tokens (f64).
#include <gtest/gtest.h>

#include <fstream>

#include "io/gguf_model.h"
#include "metal_marlin/quantize.h"
#include "models/config.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

struct Case {
  const char* name;
  const char* model;  // in the case's folder
  double bound;       // of the largest difference, as a share of the largest logit
};

// Every token's logits, in the exact mode.
std::vector<float> logits_of(const std::filesystem::path& path, const std::vector<TokenId>& ids, bool f16 = false) {
  LoadOptions load;
  load.exact = true;
  load.gguf_to_f16 = f16;
  load.threads = 2;
  Session session(Model::load(path, load), {1, 64, 64, 1});
  std::vector<float> out;
  session.step(std::array{SequenceInput{session.open(), ids, 0}}, [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows) out.insert(out.end(), row.values.begin(), row.values.end());
  });
  return out;
}

double largest_difference(const std::vector<float>& found, const std::vector<float>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double difference = 0;
  double largest = 0;
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    difference = std::max(difference, std::fabs(static_cast<double>(found[i]) - expected[i]));
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

class FieldCase : public testing::TestWithParam<Case> {
 protected:
  std::filesystem::path folder_ = test_data("field") / GetParam().name;
};
INSTANTIATE_TEST_SUITE_P(
    Cases, FieldCase,
    testing::Values(
        Case{"gguf-qkv-bias", "m.gguf", 1e-4}, Case{"gguf-yarn-betas", "m.gguf", 1e-4},
        Case{"gguf-split", "m-00001-of-00002.gguf", 1e-4}, Case{"gguf-split", "m-00002-of-00002.gguf", 1e-4},
        Case{"shards-without-index", "m", 1e-4}, Case{"unused-c64", "m", 1e-4}, Case{"unused-f4", "m", 1e-4},
        Case{"rope-by-layer-type", "m", 1e-4}, Case{"qwen3-window-default", "m", 1e-4}, Case{"rope-dynamic", "m", 1e-4},
        Case{"fp8-block", "m", 2e-3}, Case{"int8-compressed-tensors", "m", 2e-3}, Case{"transform-config", "m", 2e-3},
        Case{"gptq-v2-zeros", "m", 2e-3}, Case{"gptq-dynamic-bits", "m", 2e-3}, Case{"awq-version-upper", "m", 2e-3},
        Case{"mlx-affine", "m", 2e-3}, Case{"experts-together-qwen3", "m", 1e-4},
        Case{"experts-together-glm4", "m", 1e-4}, Case{"experts-together-minimax", "m", 1e-4},
        Case{"experts-per-token-left-out", "m", 1e-4}, Case{"experts-per-token-left-out-glm4", "m", 1e-4},
        Case{"names-without-model", "m", 1e-4}, Case{"names-with-model-twice", "m", 1e-4},
        Case{"tied-another-head", "m", 1e-4}, Case{"tied-same-head", "m", 1e-4}, Case{"tied-only-head", "m", 1e-4},
        Case{"fields-that-do-not-count-glm4", "m", 1e-4}, Case{"no-shared-experts-glm4", "m", 1e-4}),
    [](const auto& test) {
      std::string name = std::string(test.param.name) + "_" + test.param.model;
      for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
      return name;
    });

TEST_P(FieldCase, GivesTheReferencesLogits) {
  const auto ids = read_json_file(folder_ / "ids.json").get<std::vector<TokenId>>();
  const SafetensorsFile expected(folder_ / "expected.safetensors");
  EXPECT_LT(largest_difference(logits_of(folder_ / GetParam().model, ids), read_tensor<float>(expected, "logits")),
            GetParam().bound);
}

// Whatever the source called them, a quantized folder has the usual names, and says of the head what is so.
TEST(QuantizedModels, HaveTheUsualNamesAndTheHeadOfTheirSource) {
  for (const auto& [name, head, tied] :
       {std::tuple("tied-another-head", true, false), std::tuple("tied-same-head", false, true),
        std::tuple("tied-only-head", false, true), std::tuple("names-without-model", true, false),
        std::tuple("experts-together-glm4", true, false)}) {
    const TemporaryFolder folder;
    const auto source = test_data("field") / name;
    QuantizeOptions options;
    options.spec = default_spec(Format::kInt8);
    quantize(source / "m", folder.path() / "q", options);
    const auto written = open_checkpoint(folder.path() / "q");
    EXPECT_NE(written->find("model.embed_tokens.weight"), nullptr) << name;
    EXPECT_EQ(written->find("lm_head.weight") != nullptr, head) << name;
    EXPECT_EQ(written->config().at("tie_word_embeddings"), tied) << name;
    EXPECT_EQ(read_model_config(*written).tied, tied) << name;
    const auto ids = read_json_file(source / "ids.json").get<std::vector<TokenId>>();
    const SafetensorsFile expected(source / "expected.safetensors");
    EXPECT_LT(largest_difference(logits_of(folder.path() / "q", ids), read_tensor<float>(expected, "logits")), 0.05)
        << name;
  }
}

TEST(LoadedModels, ATiedHeadThatIsAnotherIsNoticed) {
  std::string notices;
  LoadOptions load;
  load.notice = [&](const std::string& text) { notices += text; };
  Model::load(test_data("field/tied-another-head/m"), load);
  EXPECT_NE(notices.find("tie_word_embeddings is true, but lm_head.weight is not model.embed_tokens.weight"),
            std::string::npos);
  notices.clear();
  Model::load(test_data("field/tied-same-head/m"), load);
  EXPECT_EQ(notices, "");
}

// Experts in every kind of type; the K-quants among them become int8 or f16, whose rounding is all that differs.
TEST(GgufExperts, GiveTheReferencesLogits) {
  const auto folder = test_data("field/gguf-experts");
  const auto ids = read_json_file(folder / "ids.json").get<std::vector<TokenId>>();
  const SafetensorsFile file(folder / "expected.safetensors");
  const auto expected = read_tensor<float>(file, "logits");
  EXPECT_LT(largest_difference(logits_of(folder / "m.gguf", ids, true), expected), 1e-3);
  EXPECT_LT(largest_difference(logits_of(folder / "m.gguf", ids), expected), 1e-2);
}

// The same bytes as a file of this machine's order has.
TEST(BigEndianGguf, HasTheSameWeights) {
  ThreadPool pool(1);
  const auto turned = open_checkpoint(test_data("field/gguf-big-endian/m.gguf"));
  EXPECT_EQ(turned->config().at("hidden_size"), 64);
  const auto logits = logits_of(test_data("field/gguf-big-endian/m.gguf"), {3, 17, 5});
  ASSERT_EQ(logits.size(), 3U * 64U);
  for (const float logit : logits) ASSERT_LT(std::fabs(logit), 1e3F);
  std::vector<float> norm(64);
  turned->load("model.norm.weight", pool).decode_row(0, 64, norm.data());
  for (const float x : norm) EXPECT_TRUE(x > 0.5F && x < 1.5F) << x;
}

TEST(SplitGguf, SaysWhichPartIsMissing) {
  const TemporaryFolder folder;
  const auto part = folder.path() / "m-00001-of-00002.gguf";
  std::filesystem::copy(test_data("field/gguf-split/m-00001-of-00002.gguf"), part);
  expect_error(ErrorCode::kNotFound, "part 2 of 2, m-00002-of-00002.gguf, is missing", [&] { open_checkpoint(part); });
  std::filesystem::copy(part, folder.path() / "m-00002-of-00002.gguf");
  expect_error(ErrorCode::kCorruptFile, "are not those of part 2 of 2", [&] { open_checkpoint(part); });
  std::filesystem::rename(part, folder.path() / "renamed.gguf");
  expect_error(ErrorCode::kCorruptFile, "key split.count is 2, expected a name",
               [&] { open_checkpoint(folder.path() / "renamed.gguf"); });
}

// A fixture with tensors added or changed.
void write_changed(const std::filesystem::path& source, const std::filesystem::path& target,
                   const std::function<void(std::vector<std::pair<TensorPlan, std::vector<std::byte>>>&)>& change) {
  std::filesystem::create_directories(target);
  std::filesystem::copy(source / "config.json", target / "config.json");
  const SafetensorsFile model(source / "model.safetensors");
  std::vector<std::pair<TensorPlan, std::vector<std::byte>>> tensors;
  for (const auto& [name, view] : model.tensors())
    tensors.push_back({{name, view.dtype, view.shape}, {view.bytes.begin(), view.bytes.end()}});
  change(tensors);
  std::vector<TensorPlan> plan;
  for (const auto& [tensor, bytes] : tensors) plan.push_back(tensor);
  SafetensorsWriter writer(target / "model.safetensors", plan);
  for (const auto& [tensor, bytes] : tensors) writer.write(bytes);
  writer.finish();
}

TEST(LoadedModels, WeightsThatAreNotFiniteAreNamed) {
  const TemporaryFolder folder;
  write_changed(fixture("qwen3-tiny"), folder.path() / "nan", [](auto& tensors) {
    for (auto& [plan, bytes] : tensors) {
      if (plan.name != "model.layers.1.input_layernorm.weight") continue;
      bytes[6] = std::byte{0xC0};  // bf16 NaN
      bytes[7] = std::byte{0x7F};
    }
  });
  expect_error(ErrorCode::kCorruptFile, "tensor model.layers.1.input_layernorm.weight: element 3 is nan",
               [&] { Model::load(folder.path() / "nan"); });
}

TEST(LoadedModels, EveryTensorOfAModuleIsUsed) {
  for (const char* const name : {"model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.up_proj.weight_scale",
                                 "model.layers.1.self_attn.o_proj.lora_A.weight", "model.norm.bias"}) {
    const TemporaryFolder folder;
    write_changed(fixture("qwen3-tiny"), folder.path() / "m", [&](auto& tensors) {
      tensors.push_back({{name, DType::kF32, {1}}, std::vector<std::byte>(4)});
    });
    expect_error(ErrorCode::kUnsupported, std::string("tensor ") + name, [&] { Model::load(folder.path() / "m"); });
    expect_error(ErrorCode::kUnsupported, std::string("tensor ") + name,
                 [&] { quantize(folder.path() / "m", folder.path() / "q", {}); });
  }
}

// Scales of experts that are stored together, and an expert more than the configuration says.
TEST(LoadedModels, EveryTensorOfTheExpertsIsUsed) {
  for (const char* const name :
       {"model.layers.1.mlp.experts.gate_up_proj_scale_inv", "model.layers.0.mlp.experts.5.up_proj.weight"}) {
    const TemporaryFolder folder;
    write_changed(test_data("field/experts-together-qwen3/m"), folder.path() / "m", [&](auto& tensors) {
      tensors.push_back({{name, DType::kF32, {1}}, std::vector<std::byte>(4)});
    });
    expect_error(ErrorCode::kUnsupported, std::string("tensor ") + name, [&] { Model::load(folder.path() / "m"); });
  }
}

// Which of them counts is the reference implementation's choice: the first by name.
TEST(LoadedModels, OfAWeightUnderTwoNamesTheFirstIsUsed) {
  const TemporaryFolder folder;
  std::string notices;
  CheckpointOptions options;
  options.notice = [&](const std::string& text) { notices += text + "\n"; };
  ThreadPool pool(1);
  for (const auto& [name, other, first] : {std::tuple("model.norm.weight", "norm.weight", true),
                                           std::tuple("model.norm.weight", "model.model.norm.weight", false),
                                           std::tuple("lm_head.weight", "model.lm_head.weight", true)}) {
    const auto target = folder.path() / other;
    write_changed(fixture("llama-tiny"), target, [&, &other = other](auto& tensors) {
      tensors.push_back({{other, DType::kF32, {2}}, std::vector<std::byte>(8)});
    });
    notices.clear();
    const auto checkpoint = open_checkpoint(target, options);
    EXPECT_EQ(checkpoint->find(name)->shape != Shape{2}, first) << name;
    const std::string used = first ? name : other;
    const std::string left = first ? other : name;
    EXPECT_NE(notices.find("tensor " + left + " is not used, as " + used + " of "), std::string::npos) << notices;
  }
}

// What is packed must not be there once more.
TEST(LoadedModels, AWeightBesideItsPackedFormIsRefused) {
  const TemporaryFolder folder;
  for (const auto& [source, module, packed] : {std::tuple("stored/gptq-4-asymmetric", "a", "a.qweight"),
                                               std::tuple("stored/ct-int6-packed", "a", "a.weight_packed")}) {
    const auto target = folder.path() / packed;
    write_changed(test_data(source), target, [&, &module = module](auto& tensors) {
      tensors.push_back({{std::string(module) + ".weight", DType::kF32, {2, 2}}, std::vector<std::byte>(16)});
    });
    expect_error(ErrorCode::kCorruptFile, "tensor a.weight is the same weight as " + std::string(packed) + " of ",
                 [&] { open_checkpoint(target); });
  }
  write_changed(test_data("field/experts-together-qwen3/m"), folder.path() / "experts", [&](auto& tensors) {
    tensors.push_back({{"model.layers.0.mlp.experts.1.up_proj.weight", DType::kF32, {1}}, std::vector<std::byte>(4)});
  });
  expect_error(ErrorCode::kCorruptFile, "is the same weight as model.layers.0.mlp.experts.",
               [&] { open_checkpoint(folder.path() / "experts"); });
}

TEST(QuantizedModels, KeepWhatTheyDoNotKnow) {
  const TemporaryFolder folder;
  const std::vector<std::byte> bytes{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{0xFF},
                                     std::byte{5}, std::byte{6}, std::byte{7}, std::byte{8}};
  write_changed(fixture("qwen3-tiny"), folder.path() / "m", [&](auto& tensors) {
    tensors.push_back({{"visual.some.weight", DType::kC64, {1}}, bytes});
    tensors.push_back({{"visual.other", DType::kF4, {2, 8}}, bytes});
  });
  std::string notices;
  QuantizeOptions options;
  options.notice = [&](const std::string& text) { notices += text + "\n"; };
  quantize(folder.path() / "m", folder.path() / "q", options);
  EXPECT_NE(notices.find("tensor visual.some.weight is not used by the model and stays as it is"), std::string::npos);
  const SafetensorsFolder written(folder.path() / "q");
  for (const auto& [name, dtype] :
       {std::pair("visual.some.weight", DType::kC64), std::pair("visual.other", DType::kF4)}) {
    const DenseView* const view = written.find(name);
    ASSERT_NE(view, nullptr) << name;
    EXPECT_EQ(view->dtype, dtype);
    EXPECT_TRUE(std::equal(view->bytes.begin(), view->bytes.end(), bytes.begin(), bytes.end())) << name;
  }
  EXPECT_FALSE(last_logits(folder.path() / "q", true).empty());
}

}  // namespace
}  // namespace metal_marlin

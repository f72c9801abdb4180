// Layers for the next tokens: quantize keeps them.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "metal_marlin/generate.h"
#include "metal_marlin/inspect.h"
#include "metal_marlin/quantize.h"
#include "quantize/quantized_models.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

std::shared_ptr<const Model> with_prediction(const std::filesystem::path& path) {
  LoadOptions options;
  options.threads = 1;
  options.prediction = true;
  return Model::load(path, options);
}

// The fixture with some tensors more, or changed, and others left out.
void copy_changed(const std::filesystem::path& to,
                  const std::function<std::vector<std::pair<std::string, std::string>>(const std::string&)>& names_of) {
  std::filesystem::create_directories(to);
  std::filesystem::copy(fixture("glm4-mtp") / "config.json", to);
  const SafetensorsFile file(fixture("glm4-mtp") / "model.safetensors");
  nlohmann::json header;
  std::string data;
  for (const auto& [name, view] : file.tensors()) {
    for (const auto& [stored, change] : names_of(name)) {
      std::string bytes(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
      bytes.replace(0, change.size(), change);
      header[stored] = {{"dtype", dtype_name(view.dtype)},
                        {"shape", view.shape},
                        {"data_offsets", {data.size(), data.size() + bytes.size()}}};
      data += bytes;
    }
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  std::ofstream out(to / "model.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), sizeof(size));
  out << text << data;
}

TEST(QuantizedPrediction, IsKeptByRulesOfItsOwn) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.recipe = "glm-4.7-flash";
  options.notice = [](const std::string& text) { ADD_FAILURE() << text; };
  const auto target = folder.path() / "mixed";
  const QuantizeReport report = quantize(fixture("glm4-mtp"), target, options);
  EXPECT_EQ(format_in(report, "model.layers.2.eh_proj.weight"), "fp4");
  EXPECT_EQ(format_in(report, "model.layers.2.self_attn.o_proj.weight"), "fp8-e4m3");
  EXPECT_EQ(format_in(report, "model.layers.2.mlp.experts.0.up_proj.weight"), "fp4");  // cold where the model's are
  EXPECT_EQ(format_in(report, "model.layers.1.mlp.experts.0.up_proj.weight"), "int2");
  EXPECT_EQ(format_in(report, "model.layers.2.enorm.weight"), "BF16");
  const Inspection inspected = inspect(target);
  EXPECT_TRUE(std::any_of(inspected.tensors.begin(), inspected.tensors.end(), [](const InspectedTensor& tensor) {
    return tensor.name == "model.layers.2.eh_proj.weight" && tensor.stored_as == "fp4";
  }));
  EXPECT_EQ(with_prediction(target)->info().prediction_layers, 1);
  GenerateOptions generation;
  generation.max_tokens = 20;
  generation.ignore_end = true;
  const std::vector<TokenId> prompt{5, 6, 7};
  const auto expected = generate(with_prediction(target), prompt, generation).tokens;
  generation.speculation.mtp = true;
  generation.speculation.adapt = false;
  EXPECT_EQ(generate(with_prediction(target), prompt, generation).tokens, expected);
}

TEST(QuantizedPrediction, OfMethodsWithATextIsRounded) {
  const TemporaryFolder folder;
  copy_with_tokenizer(fixture("glm4-mtp"), folder.path() / "model");
  std::ofstream(folder.path() / "text.txt") << "The quick brown fox jumps over the lazy dog.";
  QuantizeOptions options;
  options.calibration = folder.path() / "text.txt";
  options.method = QuantizeMethod::kMrGptq;
  const QuantizeReport report = quantize(folder.path() / "model", folder.path() / "gptq", options);
  EXPECT_EQ(format_in(report, "model.layers.2.eh_proj.weight"), "fp4");
  EXPECT_EQ(with_prediction(folder.path() / "gptq")->info().prediction_layers, 1);
}

TEST(QuantizedPrediction, CopiesOfEmbeddingAndHeadAreLeftOut) {
  const TemporaryFolder folder;
  const auto names = [](const std::string& change) {
    return [change](const std::string& name) -> std::vector<std::pair<std::string, std::string>> {
      if (name == "model.embed_tokens.weight") return {{name, ""}, {"model.layers.2.embed_tokens.weight", ""}};
      if (name == "lm_head.weight") return {{name, ""}, {"model.layers.2.shared_head.head.weight", change}};
      return {{name, ""}};
    };
  };
  copy_changed(folder.path() / "same", names(""));
  const QuantizeReport report = quantize(folder.path() / "same", folder.path() / "out", {});
  EXPECT_EQ(format_in(report, "model.layers.2.shared_head.head.weight"), "none");
  EXPECT_EQ(with_prediction(folder.path() / "same")->info().prediction_layers, 1);
  copy_changed(folder.path() / "other", names("xy"));
  const std::string text = "tensor model.layers.2.shared_head.head.weight has other numbers than lm_head.weight";
  expect_error(ErrorCode::kUnsupported, text, [&] { quantize(folder.path() / "other", folder.path() / "no", {}); });
  expect_error(ErrorCode::kUnsupported, text, [&] { with_prediction(folder.path() / "other"); });
}

TEST(QuantizedPrediction, OfModelsWithoutItNothingIsSaid) {
  const TemporaryFolder folder;
  copy_changed(folder.path() / "without", [](const std::string& name) {
    std::vector<std::pair<std::string, std::string>> out;
    if (!name.starts_with("model.layers.2.")) out.emplace_back(name, "");
    return out;
  });
  QuantizeOptions options;
  options.notice = [](const std::string& text) { ADD_FAILURE() << text; };
  quantize(folder.path() / "without", folder.path() / "out", options);
  EXPECT_EQ(with_prediction(folder.path() / "out")->info().prediction_layers, 0);
}

}  // namespace
}  // namespace metal_marlin

// Adapters that are merged before a model is quantized.
#include <algorithm>

#include "metal_marlin/quantize.h"
#include "models/golden.h"
#include "quantized_models.h"

namespace metal_marlin {
namespace {

QuantizeOptions merging(const char* adapter, double scale = 1) {
  QuantizeOptions options;
  options.spec = default_spec(Format::kInt8);
  options.merge = AdapterOptions{"", test_data("adapters") / adapter, scale};
  return options;
}

// With nothing quantized what is written is the model with the adapter; and its quantized folder is that of this one.
TEST(QuantizeMerged, WritesTheModelWithTheAdapter) {
  for (const auto& [adapter, model] : {std::pair("llama-tiny-patterns", "llama-tiny"),
                                       {"phi3-together", "phi3"},
                                       {"qwen3-moe-attention", "qwen3-moe"},
                                       {"glm4-latent", "glm4-moe-lite-tiny"}}) {
    const TemporaryFolder folder;
    QuantizeOptions options = merging(adapter);
    options.exclude = {".*"};
    options.embedding.reset();
    quantize(fixture(model), folder.path() / "merged", options);
    const Golden golden(model);
    const std::vector<float> expected =
        read_tensor<float>(SafetensorsFile(test_data("adapters") / adapter / "golden.safetensors"), "logits");
    const auto merged = Model::load(folder.path() / "merged", exact());
    EXPECT_LT(largest_difference(logits_in_chunks(merged, golden.ids, 96), expected), tolerance("cpu")) << adapter;
    const auto logits = [&](const char* name) {
      return logits_in_chunks(Model::load(folder.path() / name, exact()), golden.ids, 96);
    };
    quantize(fixture(model), folder.path() / "at-once", merging(adapter));
    QuantizeOptions plain = merging(adapter);
    plain.merge.reset();
    quantize(folder.path() / "merged", folder.path() / "after", plain);
    EXPECT_EQ(logits("at-once"), logits("after")) << adapter;
    quantize(fixture(model), folder.path() / "without", plain);
    EXPECT_NE(logits("at-once"), logits("without")) << adapter;
  }
}

// A run that was cut off is gone on with where the adapter is the same, and begun again where its scale or files
// differ.
TEST(QuantizeMerged, GoesOnWithTheSameAdapterAlone) {
  const TemporaryFolder folder;
  const auto adapter = folder.path() / "adapter";
  std::filesystem::copy(test_data("adapters/llama-tiny-patterns"), adapter);
  QuantizeOptions options = merging("");
  options.merge->path = adapter;
  std::vector<std::string> notices;
  options.notice = [&](const std::string& text) { notices.push_back(text); };
  const auto cut_off = [&](const char* name) {
    int calls = 0;
    options.progress = [&](const QuantizeProgress&) { return ++calls < 8; };
    expect_error(ErrorCode::kCancelled, "cancelled",
                 [&] { quantize(fixture("llama-tiny"), folder.path() / name, options); });
    options.progress = {};
    notices.clear();
  };
  const auto goes_on = [&](const char* name) {
    quantize(fixture("llama-tiny"), folder.path() / name, options);
    return std::any_of(notices.begin(), notices.end(),
                       [](const std::string& text) { return text.starts_with("goes on in "); });
  };
  EXPECT_FALSE(goes_on("whole"));
  cut_off("same");
  EXPECT_TRUE(goes_on("same"));
  EXPECT_EQ(last_logits(folder.path() / "same", true), last_logits(folder.path() / "whole", true));
  cut_off("scaled");
  options.merge->scale = 0.5;
  EXPECT_FALSE(goes_on("scaled"));
  EXPECT_NE(last_logits(folder.path() / "scaled", true), last_logits(folder.path() / "whole", true));
  options.merge->scale = 1;
  for (const char* const file : {"adapter_config.json", "adapter_model.safetensors"}) {
    cut_off(file);
    const auto path = adapter / file;
    std::ifstream in(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), {}};
    in.close();
    if (path.extension() == ".json") {
      const std::string alpha = "\"lora_alpha\": 16";
      const std::size_t at = bytes.find(alpha);
      ASSERT_NE(at, std::string::npos);
      bytes.replace(at, alpha.size(), "\"lora_alpha\": 17");
    } else {
      std::swap(bytes[bytes.size() - 1], bytes[bytes.size() - 3]);  // of one element each
      std::swap(bytes[bytes.size() - 2], bytes[bytes.size() - 4]);
    }
    std::ofstream(path, std::ios::binary) << bytes;
    EXPECT_FALSE(goes_on(file)) << file;
  }
}

}  // namespace
}  // namespace metal_marlin

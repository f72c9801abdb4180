// GGUF files by llama.cpp's converter (tools/make_gguf_models.py) against logits of Hugging Face transformers.
#include <gtest/gtest.h>

#include "metal_marlin/generate.h"
#include "models/golden.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

class GgufGolden : public testing::TestWithParam<std::string> {
 protected:
  const Golden golden{GetParam(), "gguf"};
  const std::filesystem::path file = golden.folder / "model.gguf";
};
INSTANTIATE_TEST_SUITE_P(Models, GgufGolden, testing::ValuesIn(golden_models("gguf")), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(GgufGolden, LogitsMatchAtOnceAndInChunks) {
  const auto model = Model::load(file, exact());
  for (const std::size_t chunk : {golden.ids.size(), std::size_t{7}})
    EXPECT_LT(largest_difference(logits_in_chunks(model, golden.ids, chunk), golden.logits), tolerance("cpu")) << chunk;
}

TEST_P(GgufGolden, TheyAreWhatIsWrittenAsAFolder) {
  const TemporaryFolder folder;
  write_decoded(file, folder.path() / "model");
  const auto model = Model::load(folder.path() / "model", exact());
  EXPECT_LT(largest_difference(logits_in_chunks(model, golden.ids, golden.ids.size()), golden.logits),
            tolerance("cpu"));
}

}  // namespace
}  // namespace metal_marlin

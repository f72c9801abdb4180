// Folders that the compressed-tensors package wrote, against what transformers computes from them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>

#include "formats/small_floats.h"
#include "metal_marlin/error.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

class PackagesFolder : public testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path folder_ = test_data("compressed_tensors") / GetParam();
};
INSTANTIATE_TEST_SUITE_P(Schemes, PackagesFolder, testing::Values("int4", "int4-asymmetric", "int8", "fp8", "nvfp4"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(PackagesFolder, GivesTheLogitsOfTransformers) {
  const SafetensorsFile golden(folder_ / "golden.safetensors");
  const auto expected = read_tensor<float>(golden, "logits");
  const auto ids = read_tensor<std::int64_t>(golden, "input_ids");
  ASSERT_EQ(ids, (std::vector<std::int64_t>{5, 17, 200, 3, 99, 42, 8, 150, 77, 31}));  // what last_logits takes
  // The package makes bf16 of NVFP4.
  const double bound = std::string(GetParam()) == "nvfp4" ? 0x1p-7 : 3e-5;
  EXPECT_LT(relative_error(last_logits(folder_, true), expected), bound);
  EXPECT_EQ(open_checkpoint(folder_)->kind(), "compressed-tensors");
}

// Layouts as the package made them while it knew actorder "group": g_idx tells each input's group.
TEST(CompressedTensorsFolder, ActivationOrder) {
  const TemporaryFolder folder;
  const auto source = test_data("compressed_tensors") / "int4-asymmetric";
  const auto target = folder.path() / "ordered";
  std::filesystem::create_directories(target);
  std::filesystem::copy(source / "config.json", target / "config.json");
  const SafetensorsFile tensors(source / "model.safetensors");
  const std::string module = "model.layers.1.mlp.down_proj";
  const std::int64_t cols = 96;
  std::vector<std::int32_t> groups;
  for (std::int32_t i = 0; i < cols; ++i) groups.push_back(i / 32);
  std::mt19937 random(4);
  std::shuffle(groups.begin(), groups.end(), random);
  std::vector<TensorPlan> plan;
  for (const auto& [name, view] : tensors.tensors()) plan.push_back({name, view.dtype, view.shape});
  plan.push_back({module + ".weight_g_idx", DType::kI32, {cols}});
  SafetensorsWriter writer(target / "model.safetensors", plan);
  for (const auto& [name, view] : tensors.tensors()) writer.write(view.bytes);
  writer.write(std::as_bytes(std::span(groups)));
  writer.finish();

  ThreadPool pool(1);
  const auto plain = open_checkpoint(source);
  const auto ordered = open_checkpoint(target);
  EXPECT_EQ(ordered->find(module + ".weight")->stored_as, "u4 by activation order");
  EXPECT_TRUE(ordered->find("model.layers.1.mlp.up_proj.weight")->packed);
  const Weight packed = plain->load(module + ".weight", pool);
  const PackedView& view = std::get<PackedView>(packed.view);
  const Weight found = ordered->load(module + ".weight", pool);
  std::vector<std::uint8_t> codes(cols);
  std::vector<float> row(cols);
  for (std::int64_t r = 0; r < view.rows; ++r) {
    view.unpack_row(r, codes.data());
    found.decode_row(r, cols, row.data());
    for (std::size_t k = 0; k < row.size(); ++k) {
      const float expected = view.scale(r, groups[k]) * static_cast<float>(codes[k] - view.zero(r, groups[k]));
      ASSERT_EQ(row[k], f16_to_f32(f32_to_f16(expected))) << r << " " << k;
    }
  }
  EXPECT_FALSE(last_logits(target, true).empty());

  Json config = read_json_file(target / "config.json");
  for (Json& group : config["quantization_config"]["config_groups"]) group["weights"]["actorder"] = "static";
  std::ofstream(target / "config.json") << config.dump();
  expect_error(ErrorCode::kCorruptFile, module + ".weight_g_idx has groups in an order",
               [&] { open_checkpoint(target); });
}

}  // namespace
}  // namespace metal_marlin

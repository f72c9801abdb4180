// Projections that are stored as one matrix.
#include "io/split_checkpoint.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/thread_pool.h"
#include "made_checkpoint.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kCols = 64;
const std::string kAttention = "model.layers.0.self_attn.";
const std::string kMlp = "model.layers.0.mlp.";

WeightInfo dense(const std::string& name, const Shape& shape) {
  return {name, shape, DType::kF32, std::nullopt, static_cast<std::size_t>(*element_count(shape)) * 4, "F32"};
}

// Rows that begin with their numbers.
std::unique_ptr<Checkpoint> split(std::vector<WeightInfo> weights) {
  return split_projections(std::make_unique<MadeCheckpoint>(std::move(weights), [](const WeightInfo& info) -> Weight {
    const std::int64_t cols = info.shape.size() > 1 ? info.shape[1] : 1;
    auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(info.shape[0] * cols));
    for (std::int64_t row = 0; row < info.shape[0]; ++row)
      (*values)[static_cast<std::size_t>(row * cols)] = static_cast<float>(row);
    if (!info.packed) return {DenseView{DType::kF32, info.shape, std::as_bytes(std::span(*values))}, values};
    ThreadPool pool(1);
    auto matrix = std::make_shared<PackedMatrix>(quantize_matrix(
        *info.packed, info.shape[0], cols,
        [&](std::int64_t row, float* out) { std::copy_n(values->data() + row * cols, cols, out); }, 1, pool));
    const PackedView view = matrix->view();
    return {view, std::move(matrix)};
  }));
}

// What a row of a weight begins with.
float first_of(const Checkpoint& checkpoint, const std::string& name, std::int64_t row, std::int64_t cols) {
  ThreadPool pool(1);
  std::vector<float> values(static_cast<std::size_t>(cols));
  checkpoint.load(name, pool).decode_row(row, cols, values.data());
  return values[0];
}

TEST(SplitCheckpoint, HasTheProjectionsRows) {
  for (const bool packed : {false, true}) {
    WeightInfo qkv = dense(kAttention + "qkv_proj.weight", {14, kCols});
    WeightInfo gate_up = dense(kMlp + "gate_up_proj.weight", {6, kCols});
    if (packed) qkv.packed = gate_up.packed = default_spec(Format::kInt8);
    const auto checkpoint = split(
        {qkv, gate_up, dense(kAttention + "o_proj.weight", {kCols, 8}), dense(kMlp + "down_proj.weight", {kCols, 3})});
    std::vector<std::string> names;
    for (const WeightInfo& info : checkpoint->weights()) names.push_back(info.name);
    EXPECT_EQ(names,
              (std::vector<std::string>{kMlp + "down_proj.weight", kMlp + "gate_proj.weight", kMlp + "up_proj.weight",
                                        kAttention + "k_proj.weight", kAttention + "o_proj.weight",
                                        kAttention + "q_proj.weight", kAttention + "v_proj.weight"}));
    EXPECT_EQ(checkpoint->find(kAttention + "q_proj.weight")->shape, (Shape{8, kCols}));
    EXPECT_EQ(checkpoint->find(kAttention + "v_proj.weight")->shape, (Shape{3, kCols}));
    EXPECT_NEAR(first_of(*checkpoint, kAttention + "q_proj.weight", 7, kCols), 7, 0.1);
    EXPECT_NEAR(first_of(*checkpoint, kAttention + "k_proj.weight", 0, kCols), 8, 0.1);
    EXPECT_NEAR(first_of(*checkpoint, kAttention + "v_proj.weight", 2, kCols), 13, 0.1);
    EXPECT_NEAR(first_of(*checkpoint, kMlp + "up_proj.weight", 1, kCols), 4, 0.1);
    EXPECT_EQ(checkpoint->where(kMlp + "up_proj.weight"), "made " + kMlp + "gate_up_proj.weight");
    EXPECT_EQ(checkpoint->name_in_file(kMlp + "up_proj.weight"), kMlp + "gate_up_proj.weight");
  }
}

TEST(SplitCheckpoint, SharesTheBytesOfDenseWeights) {
  ThreadPool pool(1);
  auto values = std::make_shared<std::vector<float>>(4 * kCols);
  const auto checkpoint = split_projections(std::make_unique<MadeCheckpoint>(
      std::vector{dense(kMlp + "gate_up_proj.weight", {4, kCols})}, [&](const WeightInfo& info) -> Weight {
        return {DenseView{DType::kF32, info.shape, std::as_bytes(std::span(*values))}, values};
      }));
  const Weight up = checkpoint->load(kMlp + "up_proj.weight", pool);
  EXPECT_EQ(static_cast<const void*>(std::get<DenseView>(up.view).bytes.data()), values->data() + 2 * kCols);
}

TEST(SplitCheckpoint, SplitsBiasesToo) {
  const auto checkpoint =
      split({dense(kAttention + "qkv_proj.bias", {14}), dense(kAttention + "o_proj.weight", {kCols, 8})});
  EXPECT_EQ(checkpoint->find(kAttention + "k_proj.bias")->shape, Shape{3});
  ThreadPool pool(1);
  std::vector<float> values(3);
  checkpoint->load(kAttention + "v_proj.bias", pool).decode_row(0, 3, values.data());
  EXPECT_EQ(values, (std::vector<float>{11, 12, 13}));
}

TEST(SplitCheckpoint, SplitsWhatAnExpertHas) {
  const std::string expert = "model.layers.0.experts.3.";
  const auto checkpoint = split({dense(expert + "gate_up_proj.weight", {4, kCols})});
  EXPECT_EQ(first_of(*checkpoint, expert + "gate_proj.weight", 1, kCols), 1);
  EXPECT_EQ(first_of(*checkpoint, expert + "up_proj.weight", 1, kCols), 3);
}

TEST(SplitCheckpoint, LeavesAllElseAlone) {
  const auto checkpoint = split({dense("model.layers.0.mlp.experts.gate_up_proj.weight", {4, kCols}),
                                 dense(kAttention + "qkv_proj.weight", {14, kCols})});  // of what size its queries are
  EXPECT_NE(checkpoint->find("model.layers.0.mlp.experts.gate_up_proj.weight"), nullptr);
  EXPECT_NE(checkpoint->find(kAttention + "qkv_proj.weight"), nullptr);
}

TEST(SplitCheckpoint, RefusesWhatCannotBeSplit) {
  const WeightInfo output = dense(kAttention + "o_proj.weight", {kCols, 8});
  for (const std::int64_t rows : {8, 13})
    expect_error(ErrorCode::kCorruptFile, "qkv_proj.weight: shape", [&] {
      split({output, dense(kAttention + "qkv_proj.weight", {rows, kCols})});
    });
  expect_error(ErrorCode::kCorruptFile, "gate_up_proj.weight: shape", [] {
    split({dense(kMlp + "gate_up_proj.weight", {5, kCols})});
  });
  expect_error(ErrorCode::kCorruptFile, "up_proj.weight is a part of", [] {
    split({dense(kMlp + "gate_up_proj.weight", {4, kCols}), dense(kMlp + "up_proj.weight", {2, kCols})});
  });
}

}  // namespace
}  // namespace metal_marlin

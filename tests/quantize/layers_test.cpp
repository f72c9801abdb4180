// Activations a layer at a time against whole models, what linears are seen to read, and
// quantization by it.
#include "quantize/layers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "metal_marlin/error.h"
#include "metal_marlin/quantize.h"
#include "models/architectures.h"
#include "quantized_models.h"

namespace metal_marlin {
namespace {

ThreadPool& pool() {
  static ThreadPool instance(2);
  return instance;
}

std::vector<TokenId> some_tokens(std::size_t count) {
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<TokenId>(3 + i * 37 % 180));
  return ids;
}

Plan plan_of(const Checkpoint& checkpoint) {
  return build_plan(parse_model_config(checkpoint.config(), checkpoint.generation_config(), checkpoint.where()));
}

std::vector<float> vector_of(const Checkpoint& checkpoint, const std::string& name, std::int64_t cols,
                             std::int64_t row = 0) {
  std::vector<float> out(static_cast<std::size_t>(cols));
  checkpoint.load(name, pool()).decode_row(row, cols, out.data());
  return out;
}

class Layers : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, Layers,
                         testing::Values("qwen3-tiny", "llama-bias-linear", "qwen3-window", "glm4-moe-lite-tiny",
                                         "qwen3-moe"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Past the last layer, the norm and the head give the whole model's logits; in contexts of their own.
TEST_P(Layers, ActivationsAreTheWholeModels) {
  const auto checkpoint = open_checkpoint(fixture(GetParam()));
  const Plan plan = plan_of(*checkpoint);
  const std::vector<TokenId> ids = some_tokens(75);
  constexpr std::size_t kContext = 32;
  LayerCalibration calibration(*checkpoint, plan, ids, kContext, pool());
  for (int layer = 0; layer < calibration.layers(); ++layer) {
    static_cast<void>(calibration.observe());
    calibration.advance({});
  }
  LoadOptions load;
  load.exact = true;
  load.threads = 2;
  Session session(Model::load(fixture(GetParam()), load), {1, 64, 64, 1});
  const auto& norm = std::get<RmsNormOp>(plan.ops[plan.ops.size() - 2]);
  const auto& head = std::get<LinearOp>(plan.ops.back());
  const std::vector<float> factors = vector_of(*checkpoint, norm.weight, norm.width);
  for (std::size_t begin = 0; begin < ids.size(); begin += kContext) {
    const std::size_t count = std::min(kContext, ids.size() - begin);
    std::vector<float> expected;
    const SequenceId sequence = session.open();
    session.step(std::array{SequenceInput{sequence, std::span(ids).subspan(begin, count)}},
                 [&](std::span<const LogitsRow> rows) {
                   expected.assign(rows.back().values.begin(), rows.back().values.end());
                 });
    session.close(sequence);
    const auto width = static_cast<std::size_t>(norm.width);
    const std::span<const float> row = calibration.rows().subspan((begin + count - 1) * width, width);
    double squares = 0;
    for (const float v : row) squares += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + norm.eps);
    for (std::size_t token = 0; token < expected.size(); token += 17) {
      const auto weights = vector_of(*checkpoint, head.weight, norm.width, static_cast<std::int64_t>(token));
      double logit = 0;
      for (std::size_t i = 0; i < width; ++i) logit += row[i] * factor * factors[i] * weights[i];
      ASSERT_NEAR(expected[token], logit, 1e-4) << "context at " << begin << " token " << token;
    }
  }
}

TEST_P(Layers, EveryLinearIsSeen) {
  const auto checkpoint = open_checkpoint(fixture(GetParam()));
  const Plan plan = plan_of(*checkpoint);
  const std::vector<TokenId> ids = some_tokens(90);
  LayerCalibration calibration(*checkpoint, plan, ids, 64, pool());
  std::size_t seen = 0;
  for (int layer = 0; layer < calibration.layers(); ++layer) {
    const LayerInputs inputs = calibration.observe();
    std::int64_t of_experts = 0;
    for (const PlannedWeight& weight : planned_weights(plan)) {
      if (!weight.quantizable || !weight.name.starts_with("model.layers." + std::to_string(layer) + ".")) continue;
      const auto found = inputs.find(weight.name);
      const bool expert = weight.name.find(".experts.") != std::string::npos;
      if (found == inputs.end()) {
        EXPECT_TRUE(expert) << weight.name;  // one that got no token
        continue;
      }
      ++seen;
      EXPECT_EQ(found->second->cols(), weight.shape[1]) << weight.name;
      EXPECT_GT(found->second->at(0, 0), 0) << weight.name;
      if (!expert) {
        EXPECT_EQ(found->second->rows(), 90) << weight.name;
      }
      if (weight.name.ends_with("down_proj.weight") && expert) of_experts += found->second->rows();
    }
    EXPECT_EQ(of_experts % 90, 0);  // each token chooses as many
    calibration.advance({});
  }
  EXPECT_GT(seen, 10U);
}

std::map<std::string, std::string> bytes_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("quantization_report")) out[name] = {std::istreambuf_iterator<char>(file), {}};
  }
  return out;
}

TEST(QuantizeMethods, GptqInWholeModels) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 60; ++i)
    text += "Line " + std::to_string(i * 7919) + ": pack my box with five dozen liquor jugs; ";
  std::ofstream(folder.path() / "text.txt") << text;
  for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny"}) {
    const auto model = folder.path() / name;
    copy_with_tokenizer(fixture(name), model);
    QuantizeOptions options;
    options.spec = default_spec(Format::kInt3);
    options.calibration = folder.path() / "text.txt";
    options.calibration_tokens = 1500;
    options.method = QuantizeMethod::kGptq;
    options.threads = 2;
    const auto target = folder.path() / (std::string(name) + "-gptq");
    const QuantizeReport report = quantize(model, target, options);
    int better = 0;
    int all = 0;
    for (const QuantizedTensor& tensor : report.tensors) {
      if (tensor.format != "int3") continue;
      if (!tensor.fallback.empty()) {
        EXPECT_EQ(tensor.method, QuantizeMethod::kRtn);
        EXPECT_NE(tensor.name.find(".experts."), std::string::npos) << tensor.name << ": " << tensor.fallback;
        continue;
      }
      EXPECT_EQ(tensor.method, QuantizeMethod::kGptq);
      EXPECT_GT(tensor.output_error, 0) << tensor.name;
      ++all;
      better += tensor.output_error < tensor.output_error_rtn ? 1 : 0;
    }
    EXPECT_GT(all, 12);
    EXPECT_GT(better, all * 9 / 10);
    // As its weights say, and whatever the number of threads.
    const auto decoded = folder.path() / (std::string(name) + "-decoded");
    write_decoded(target, decoded);
    EXPECT_LT(relative_error(last_logits(target, true), last_logits(decoded, true)), 5e-6);
    options.threads = 3;
    const auto again = folder.path() / (std::string(name) + "-again");
    quantize(model, again, options);
    EXPECT_EQ(bytes_of(target), bytes_of(again));
  }
}

TEST(QuantizeMethods, NeedAText) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.method = QuantizeMethod::kGptq;
  expect_error(ErrorCode::kInvalidArgument, "method gptq needs a calibration text",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "x", options); });
  expect_error(ErrorCode::kInvalidArgument, "method magic: expected one of rtn, rtn-weighted, gptq",
               [] { parse_method("magic"); });
}

}  // namespace
}  // namespace metal_marlin

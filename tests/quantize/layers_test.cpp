// Activations a layer at a time against whole models, what linears are seen to read, and
// quantization by it.
#include "quantize/layers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "backends/registry.h"
#include "base/shared_pool.h"
#include "metal_marlin/error.h"
#include "metal_marlin/generate.h"
#include "metal_marlin/quantize.h"
#include "models/architectures.h"
#include "quantized_models.h"
#include "test_pool.h"

namespace metal_marlin {
namespace {

const Backend& backend(const std::string& name = "cpu") {
  static std::map<std::string, std::unique_ptr<Backend>> instances;
  std::unique_ptr<Backend>& instance = instances[name];
  if (!instance) instance = make_backend(name, {shared_pool(2), ""});
  return *instance;
}

std::vector<TokenId> some_tokens(std::size_t count) {
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<TokenId>(3 + i * 37 % 150));
  return ids;
}

Plan plan_of(const Checkpoint& checkpoint) {
  return build_plan(read_model_config(checkpoint));
}

std::vector<float> vector_of(const Checkpoint& checkpoint, const std::string& name, std::int64_t cols,
                             std::int64_t row = 0) {
  std::vector<float> out(static_cast<std::size_t>(cols));
  checkpoint.load(name, test_pool()).decode_row(row, cols, out.data());
  return out;
}

class Layers : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, Layers,
                         testing::Values("qwen3-tiny", "llama-bias-linear", "qwen3-window", "glm4-moe-lite-tiny",
                                         "qwen3-moe", "gemma4", "gemma4-experts"),
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
  const TemporaryFolder folder;
  LayerCalibration calibration(*checkpoint, plan, ids, kContext, folder.path(), backend(), test_pool());
  while (calibration.layer() < calibration.layers()) calibration.advance({});
  // From a file of rows on, as if it had been cut off.
  LayerCalibration resumed(*checkpoint, plan, ids, kContext, folder.path(), backend(), test_pool(),
                           calibration.layers() - 1);
  resumed.advance({});
  LoadOptions load;
  load.exact = true;
  load.threads = 2;
  Session session(Model::load(fixture(GetParam()), load), {1, 64, 64, 1});
  const auto* const cap = plan.ops.back().as<ScaleOp>();
  const std::size_t last = plan.ops.size() - (cap != nullptr ? 2 : 1);
  const auto& norm = *plan.ops[last - 1].as<NormOp>();
  const auto& head = *plan.ops[last].as<LinearOp>();
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
    std::vector<float> row(width);
    resumed.rows().read(static_cast<std::int64_t>(begin + count - 1), 1, row.data());
    double squares = 0;
    for (const float v : row) squares += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + norm.eps);
    for (std::size_t token = 0; token < expected.size(); token += 17) {
      const auto weights = vector_of(*checkpoint, head.weight, norm.width, static_cast<std::int64_t>(token));
      double logit = 0;
      for (std::size_t i = 0; i < width; ++i) logit += row[i] * factor * factors[i] * weights[i];
      if (cap != nullptr) logit = cap->soft_cap * std::tanh(logit / cap->soft_cap);
      ASSERT_NEAR(expected[token], logit, 1e-4) << "context at " << begin << " token " << token;
    }
  }
}

TEST_P(Layers, EveryLinearIsSeen) {
  const auto checkpoint = open_checkpoint(fixture(GetParam()));
  const Plan plan = plan_of(*checkpoint);
  const std::vector<TokenId> ids = some_tokens(90);
  const TemporaryFolder folder;
  LayerCalibration calibration(*checkpoint, plan, ids, 64, folder.path(), backend(), test_pool());
  std::set<std::string> seen;
  while (calibration.layer() < calibration.layers()) {
    std::int64_t of_experts = 0;
    std::map<std::string, std::int64_t> widths;
    for (const PlannedWeight& weight : planned_weights(plan)) {
      if (weight.quantizable && weight.layer == calibration.layer()) widths[weight.name] = weight.shape[1];
    }
    std::set<std::string> missing;
    calibration.observe([&](const std::string& name) { return widths.contains(name); },
                        [&](const std::vector<std::string>& names, const HessianSum* inputs) {
                          for (const std::string& name : names) {
                            if (!widths.contains(name)) continue;  // a router
                            EXPECT_TRUE(seen.insert(name).second) << name;
                            const bool expert = name.find(".experts.") != std::string::npos;
                            if (inputs == nullptr) {
                              EXPECT_TRUE(expert) << name;
                              continue;
                            }
                            EXPECT_EQ(inputs->cols(), widths[name]) << name;
                            EXPECT_GT(inputs->at(0, 0), 0) << name;
                            if (!expert) {
                              EXPECT_EQ(inputs->rows(), 90) << name;
                            }
                            if (name.ends_with("down_proj.weight") && expert) of_experts += inputs->rows();
                          }
                        });
    for (const auto& [name, width] : widths) EXPECT_TRUE(seen.contains(name)) << name;
    EXPECT_EQ(of_experts % 90, 0);  // each token chooses as many
    calibration.advance({});
  }
  EXPECT_GT(seen.size(), 10U);
}

// Weights' inputs on a text are nearly the same whatever runs the layers.
TEST(LayersOnBackends, ShowTheSameInputs) {
  for (const char* const name : {"qwen3-tiny", "qwen3-moe", "gemma4"}) {
    const auto checkpoint = open_checkpoint(fixture(name));
    std::map<std::string, std::vector<float>> expected;  // diagonals
    std::vector<std::int64_t> expected_counts;
    for (const std::string& on : available_backends()) {
      const TemporaryFolder folder;
      LayerCalibration calibration(*checkpoint, plan_of(*checkpoint), some_tokens(35), 32, folder.path(), backend(on),
                                   test_pool());
      std::size_t seen = 0;
      calibration.observe([](const std::string&) { return true; },
                          [&](const std::vector<std::string>& names, const HessianSum* inputs) {
                            std::vector<float> diagonal;
                            for (std::int64_t i = 0; inputs != nullptr && i < inputs->cols(); ++i)
                              diagonal.push_back(inputs->at(i, i));
                            ++seen;
                            if (on == "cpu") expected[names.front()] = diagonal;
                            ASSERT_EQ(diagonal.size(), expected[names.front()].size()) << names.front();
                            if (diagonal.empty()) return;  // of experts that no token reached
                            EXPECT_LT(relative_error(diagonal, expected[names.front()]), 1e-4);
                          });
      EXPECT_EQ(seen, expected.size()) << on;
      calibration.advance({});
      if (on == "cpu") expected_counts = calibration.expert_counts();
      EXPECT_EQ(calibration.expert_counts(), expected_counts) << on;
    }
  }
}

// What experts are seen to read is what they read in the whole layer.
TEST(ExpertInputs, GiveTheLayersOutput) {
  const auto checkpoint = open_checkpoint(fixture("qwen3-moe"));
  const TemporaryFolder folder;
  LayerCalibration calibration(*checkpoint, plan_of(*checkpoint), some_tokens(40), 64, folder.path(), backend(),
                               test_pool());
  calibration.advance({});
  std::int64_t rows = 0;
  std::vector<std::int64_t> seen;
  calibration.observe([](const std::string& name) { return name.find(".experts.") != std::string::npos; },
                      [&](const std::vector<std::string>& names, const HessianSum* inputs) {
                        if (!names.front().ends_with("gate_proj.weight")) return;
                        seen.push_back(inputs == nullptr ? 0 : inputs->rows());
                        rows += seen.back();
                      });
  calibration.advance({});
  EXPECT_EQ(seen, calibration.expert_counts());
  EXPECT_EQ(rows, std::accumulate(seen.begin(), seen.end(), std::int64_t{0}));
}

// A hash of each file's bytes.
std::map<std::string, std::size_t> bytes_of(const std::filesystem::path& folder) {
  std::map<std::string, std::size_t> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string name = entry.path().filename().string();
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (!name.starts_with("quantization_report")) out[name] = std::hash<std::string>()(bytes);
  }
  return out;
}

// A text for the tokenizer of copy_with_tokenizer.
void write_text(const std::filesystem::path& path) {
  std::ofstream file(path);
  for (int i = 0; i < 60; ++i) file << "Line " << i * 7919 << ": pack my box with five dozen liquor jugs; ";
}

// A model with a tokenizer in a folder that has a text, and options to quantize it on that text.
QuantizeOptions prepared(const std::filesystem::path& folder, const char* name, QuantizeMethod method, Format format,
                         std::int64_t tokens) {
  write_text(folder / "text.txt");
  copy_with_tokenizer(fixture(name), folder / name);
  QuantizeOptions options;
  options.spec = default_spec(format);
  options.calibration = folder / "text.txt";
  options.calibration_tokens = tokens;
  options.method = method;
  options.threads = 2;
  return options;
}

TEST(QuantizeMethods, GptqInWholeModels) {
  const TemporaryFolder folder;
  for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny"}) {
    const auto model = folder.path() / name;
    QuantizeOptions options = prepared(folder.path(), name, QuantizeMethod::kGptq, Format::kInt3, 1500);
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

// Both named recipes, end to end: quantized, loaded twice, the same text both times, on every backend.
TEST(QuantizeMethods, NamedRecipesByGptq) {
  const TemporaryFolder folder;
  for (const auto& [name, recipe] :
       {std::pair{"qwen3-tiny", "qwen3-4b"}, std::pair{"glm4-moe-lite-tiny", "glm-4.7-flash"}}) {
    const auto model = folder.path() / name;
    QuantizeOptions options = prepared(folder.path(), name, QuantizeMethod::kGptq, Format::kFp4, 1500);
    options.recipe = recipe;
    const auto target = folder.path() / (std::string(name) + "-recipe");
    int calibrated = 0;
    for (const QuantizedTensor& tensor : quantize(model, target, options).tensors)
      calibrated += tensor.method == QuantizeMethod::kGptq ? 1 : 0;
    EXPECT_GT(calibrated, 12) << name;
    GenerateOptions generation;
    generation.max_tokens = 8;
    generation.sampler.temperature = 0;
    generation.ignore_end = true;
    const std::vector<TokenId> prompt{5, 17, 200, 3};
    std::vector<TokenId> expected;
    for (const std::string& backend : available_backends()) {
      for (int round = 0; round < 2; ++round) {
        LoadOptions load;
        load.backend = backend;
        load.exact = true;
        load.threads = 2;
        const std::vector<TokenId> found = generate(Model::load(target, load), prompt, generation).tokens;
        EXPECT_EQ(found.size(), 8U);
        if (expected.empty()) expected = found;
        EXPECT_EQ(found, expected) << name << " " << backend;
      }
    }
  }
}

// Rotated weights and activations: the model does what its weights, rotated back, do, on every backend.
TEST(QuantizeMethods, MrGptqInWholeModels) {
  const TemporaryFolder folder;
  for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny", "llama-tiny"}) {
    const auto model = folder.path() / name;
    QuantizeOptions options = prepared(folder.path(), name, QuantizeMethod::kMrGptq, Format::kMxfp4, 600);
    options.rotation = 16;
    const auto target = folder.path() / (std::string(name) + "-mr");
    const QuantizeReport report = quantize(model, target, options);
    int rotated = 0;
    int folded = 0;
    int outputs = 0;
    for (const QuantizedTensor& tensor : report.tensors) {
      if (tensor.format != "mxfp4" || !tensor.fallback.empty()) continue;
      const bool expands = tensor.name.find("kv_b_proj") != std::string::npos;
      EXPECT_EQ(tensor.method, expands ? QuantizeMethod::kGptq : QuantizeMethod::kMrGptq) << tensor.name;
      EXPECT_EQ(tensor.rotation, expands ? 0 : 16) << tensor.name;
      rotated += tensor.rotation_folded ? 0 : 1;
      folded += tensor.rotation_folded ? 1 : 0;
      outputs += tensor.name.find("o_proj") != std::string::npos ? 1 : 0;
    }
    EXPECT_GT(rotated, 10) << name;
    EXPECT_EQ(folded, std::string(name) == "glm4-moe-lite-tiny" ? 0 : outputs) << name;
    expect_runs_as_decoded(target, folder.path() / (std::string(name) + "-decoded"));
    expect_error(ErrorCode::kUnsupported, "is stored rotated; quantize the model that it was made of",
                 [&] { quantize(target, folder.path() / "x", QuantizeOptions{}); });
  }
}

// 2:4 sparse weights, rotated ones too: two of each four are zero, outputs are closer than by pruning what is
// small, and every backend does what the decoded weights do.
TEST(QuantizeMethods, SparseInWholeModels) {
  const TemporaryFolder folder;
  for (const auto& [name, method] :
       {std::pair{"qwen3-tiny", QuantizeMethod::kMrGptq}, std::pair{"glm4-moe-lite-tiny", QuantizeMethod::kGptq}}) {
    const auto model = folder.path() / name;
    QuantizeOptions options = prepared(folder.path(), name, method, Format::kS4, 600);
    options.spec.sparse = true;
    options.rotation = method == QuantizeMethod::kMrGptq ? 16 : 0;
    const auto target = folder.path() / (std::string(name) + "-sparse");
    int better = 0;
    int all = 0;
    for (const QuantizedTensor& tensor : quantize(model, target, options).tensors) {
      if (tensor.format != "s4 2:4" || !tensor.fallback.empty()) continue;
      ++all;
      better += tensor.output_error < tensor.output_error_rtn ? 1 : 0;
    }
    EXPECT_GT(all, 12);
    EXPECT_GT(better, all * 9 / 10);
    expect_runs_as_decoded(target, folder.path() / (std::string(name) + "-decoded"));
  }
}

// Rotation that the weights before take over changes nothing but roundings: in eight bits the model is
// as it was.
TEST(QuantizeMethods, FoldedRotationsLeaveTheModelAsItIs) {
  const TemporaryFolder folder;
  for (const char* const name : {"qwen3-tiny", "llama-bias-linear"}) {
    const auto model = folder.path() / name;
    QuantizeOptions options = prepared(folder.path(), name, QuantizeMethod::kMrGptq, Format::kInt8, 600);
    options.embedding.reset();
    options.rotation = std::string(name) == "qwen3-tiny" ? 16 : 0;
    options.include = {"self_attn\\.[vo]_proj"};
    const auto target = folder.path() / (std::string(name) + "-mr");
    if (options.rotation == 0) {  // its widths hold no block
      expect_error(ErrorCode::kInvalidArgument, "rotation in blocks of 16 does not divide its width",
                   [&] { quantize(model, target, options); });
      continue;
    }
    quantize(model, target, options);
    options.method = QuantizeMethod::kGptq;
    const auto plain = folder.path() / (std::string(name) + "-gptq");
    quantize(model, plain, options);
    const std::vector<float> expected = last_logits(model, true);
    EXPECT_LT(relative_error(last_logits(target, true), expected),
              1.5 * relative_error(last_logits(plain, true), expected));
  }
}

// Cut off after any number of tensors and gone on with, the result is that of one run.
TEST(QuantizeMethods, GoOnWhereTheyWereCutOff) {
  const TemporaryFolder folder;
  const char* const name = "glm4-moe-lite-tiny";
  const auto model = folder.path() / name;
  QuantizeOptions options = prepared(folder.path(), name, QuantizeMethod::kGptq, Format::kNvfp4, 300);
  const auto whole = folder.path() / "whole";
  quantize(model, whole, options);
  const auto target = folder.path() / "parts";
  std::vector<std::string> notices;
  options.notice = [&](const std::string& text) { notices.push_back(text); };
  for (int stop = 3;; stop += 25) {
    int calls = 0;
    options.progress = [&](const QuantizeProgress&) { return ++calls < stop; };
    try {
      quantize(model, target, options);
      break;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCancelled) << error.what();
      EXPECT_FALSE(std::filesystem::exists(target));
    }
    if (stop == 53) {  // what a crash of the system may leave at the journal's end is nothing known
      for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
        if (entry.path().string().find(".partial-") != std::string::npos)
          std::ofstream(entry.path() / "journal.jsonl", std::ios::app) << "{\"name\": \"mod\n";
      }
    }
    ASSERT_LT(stop, 2000);
  }
  EXPECT_GT(std::count_if(notices.begin(), notices.end(),
                          [](const std::string& text) { return text.starts_with("goes on in "); }),
            2);
  EXPECT_EQ(bytes_of(target), bytes_of(whole));
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    EXPECT_EQ(entry.path().string().find(".partial-"), std::string::npos) << entry.path();
  // Another text: what was begun is of no use, and is taken away.
  int calls = 0;
  options.progress = [&](const QuantizeProgress&) { return ++calls < 40; };
  EXPECT_THROW(quantize(model, folder.path() / "other", options), Error);
  options.progress = {};
  options.calibration_tokens = 200;
  notices.clear();
  quantize(model, folder.path() / "other", options);
  EXPECT_EQ(std::count_if(notices.begin(), notices.end(),
                          [](const std::string& text) { return text.starts_with("goes on in "); }),
            0);
}

// The use of experts is counted once, however often a run is cut off.
TEST(QuantizeMethods, CountsOfExpertsAreKept) {
  const TemporaryFolder folder;
  write_text(folder.path() / "text.txt");
  const auto model = folder.path() / "model";
  copy_with_tokenizer(fixture("glm4-moe-lite-tiny"), model);
  QuantizeOptions options;
  options.recipe = "glm-4.7-flash";
  options.calibration = folder.path() / "text.txt";
  options.calibration_tokens = 200;
  const auto target = folder.path() / "out";
  int calibrating = 0;
  options.progress = [&](const QuantizeProgress& progress) {
    calibrating += progress.calibrating ? 1 : 0;
    return progress.calibrating;
  };
  EXPECT_THROW(quantize(model, target, options), Error);
  EXPECT_EQ(calibrating, 3);  // layers
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "out.counts.json"));
  options.progress = [&](const QuantizeProgress& progress) {
    calibrating += progress.calibrating ? 1 : 0;
    return true;
  };
  const QuantizeReport report = quantize(model, target, options);
  EXPECT_EQ(calibrating, 3);
  EXPECT_EQ(report.expert_counts.size(), 3U);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "out.counts.json"));
  const QuantizeReport whole = quantize(model, folder.path() / "whole", options);
  EXPECT_EQ(whole.expert_counts, report.expert_counts);
  EXPECT_EQ(bytes_of(folder.path() / "whole"), bytes_of(target));
}

TEST(QuantizeMethods, MemoryThatCannotDoIsRefused) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.memory = std::size_t{16} << 20;
  expect_error(ErrorCode::kInvalidArgument, "memory: 16 MiB are allowed, about 25",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "x", options); });
}

TEST(QuantizeMethods, NeedAText) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.method = QuantizeMethod::kGptq;
  expect_error(ErrorCode::kInvalidArgument, "method gptq needs a calibration text",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "x", options); });
  expect_error(ErrorCode::kInvalidArgument, "method magic: expected one of rtn, rtn-weighted, gptq, mr-gptq",
               [] { parse_method("magic"); });
}

}  // namespace
}  // namespace metal_marlin

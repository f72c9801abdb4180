// Adapters against logits of PEFT, and what is refused.
#include "models/adapters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "allocations.h"
#include "backends/registry.h"
#include "base/shared_pool.h"
#include "io/json.h"
#include "metal_marlin/embed.h"
#include "models/architectures.h"
#include "models/config.h"
#include "models/golden.h"
#include "models/merged_checkpoint.h"

namespace metal_marlin {
namespace {

struct GoldenAdapter {
  explicit GoldenAdapter(const std::string& name)
      : folder(test_data("adapters/" + name)),
        model(read_json_file(folder / "adapter_config.json").at("base_model_name_or_path").get<std::string>()),
        logits(read_tensor<float>(SafetensorsFile(folder / "golden.safetensors"), "logits")) {}

  [[nodiscard]] std::shared_ptr<const Model> load(LoadOptions options, double scale = 1) const {
    options.adapters = {{"golden", folder, scale}};
    return Model::load(model.folder, options);
  }

  std::filesystem::path folder;
  Golden model;
  std::vector<float> logits;
};

std::vector<std::pair<std::string, std::string>> adapter_cases() {
  std::vector<std::pair<std::string, std::string>> cases;
  for (const auto& entry : std::filesystem::directory_iterator(test_data("adapters"))) {
    for (const std::string& backend : available_backends())
      cases.emplace_back(entry.path().filename().string(), backend);
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

class Adapters : public testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  const GoldenAdapter golden{GetParam().first};
  const std::string backend = GetParam().second;
};
INSTANTIATE_TEST_SUITE_P(Fixtures, Adapters, testing::ValuesIn(adapter_cases()), [](const auto& test) {
  std::string name = test.param.first + "_" + test.param.second;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Logits at every position, with an adapter.
std::vector<float> adapted_logits(const std::shared_ptr<const Model>& model, const std::string& adapter,
                                  std::span<const TokenId> ids, std::size_t chunk) {
  SessionOptions options;
  options.cache_tokens = static_cast<std::int64_t>(ids.size());
  options.batch_logits = 11;
  options.one_order = true;
  Session session(model, options);
  const SequenceId sequence = session.open(adapter);
  std::vector<float> out;
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    const auto part = ids.subspan(begin, std::min(chunk, ids.size() - begin));
    session.step(std::array{SequenceInput{sequence, part, 0}}, [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows) out.insert(out.end(), row.values.begin(), row.values.end());
    });
  }
  return out;
}

TEST_P(Adapters, LogitsMatchAtOnceAndInChunks) {
  const auto model = golden.load(exact(backend));
  for (const std::size_t chunk : {std::size_t{96}, std::size_t{7}, std::size_t{1}}) {
    if (backend != "cpu" && chunk < 96 && !is_run_in_full(golden.model.folder.filename())) continue;
    const std::span<const TokenId> ids = std::span(golden.model.ids).first(chunk > 1 || backend == "cpu" ? 96 : 10);
    const std::size_t vocab = golden.logits.size() / golden.model.ids.size();
    const std::vector<float> expected(golden.logits.begin(),
                                      golden.logits.begin() + static_cast<std::ptrdiff_t>(ids.size() * vocab));
    EXPECT_LT(largest_difference(adapted_logits(model, "golden", ids, chunk), expected), tolerance(backend))
        << "chunks of " << chunk;
  }
}

TEST_P(Adapters, WithoutOneTheModelIsAsItWas) {
  LoadOptions options;
  options.backend = backend;
  const auto plain = Model::load(golden.model.folder, options);
  const auto ids = std::span(golden.model.ids).first(20);
  EXPECT_EQ(adapted_logits(golden.load(options), "", ids, 20), adapted_logits(plain, "", ids, 20));
}

// Sequences with the adapter, with the same at half its scale and without one: to the last bit on the CPU what each
// gives alone.
TEST_P(Adapters, MixInABatch) {
  for (const bool is_exact : {true, false}) {
    LoadOptions options = exact(backend);
    options.exact = is_exact;
    options.adapters = {{"one", golden.folder, 1}, {"half", golden.folder, 0.5}};
    const auto model = Model::load(golden.model.folder, options);
    const std::array<std::string, 4> names{"one", "", "half", "one"};
    SessionOptions session_options;
    session_options.max_sequences = 4;
    session_options.cache_tokens = 400;
    session_options.batch_logits = 64;
    session_options.one_order = true;
    Session session(model, session_options);
    std::array<SequenceId, 4> sequences{};
    for (std::size_t s = 0; s < 4; ++s) sequences[s] = session.open(names[s]);
    std::array<std::vector<float>, 4> found;
    std::array<std::size_t, 4> lengths{};
    for (const std::size_t count : {std::size_t{1}, std::size_t{9}, std::size_t{1}}) {
      std::vector<SequenceInput> inputs;
      for (std::size_t s = 0; s < 4; ++s) {
        inputs.push_back({sequences[s], std::span(golden.model.ids).subspan(lengths[s], count), 0});
        lengths[s] += count;
      }
      session.step(inputs, [&](std::span<const LogitsRow> rows) {
        for (const LogitsRow& row : rows) {
          auto& out = found[static_cast<std::size_t>(row.input)];
          out.insert(out.end(), row.values.begin(), row.values.end());
        }
      });
    }
    for (std::size_t s = 0; s < 4; ++s) {
      const auto alone = adapted_logits(model, names[s], std::span(golden.model.ids).first(lengths[s]), 11);
      if (backend == "cpu") {
        EXPECT_EQ(found[s], alone) << "sequence " << s << ", exact: " << is_exact;
      } else {
        EXPECT_LT(largest_difference(found[s], alone), is_exact ? 1e-4 : 5e-2) << "sequence " << s;
      }
    }
    EXPECT_GT(largest_difference(found[0], found[1]), 1e-2);
    EXPECT_GT(largest_difference(found[0], found[2]), 1e-2);
  }
}

// What the head multiplies; of this adapter the head, which is the embedding, has no part.
TEST(AdapterEmbeddings, AreTheHiddenStatesOfTheAdapter) {
  const GoldenAdapter golden("qwen3-tiny-regex");
  const auto pool = shared_pool(2);
  const auto checkpoint = open_checkpoint(golden.model.folder);
  const Weight head = checkpoint->load("model.embed_tokens.weight", *pool);
  const std::vector<std::vector<TokenId>> inputs(1, golden.model.ids);
  EmbedOptions options;
  options.form = {Pooling::kLast, false, 0};
  for (const std::string& backend : available_backends()) {
    const auto model = golden.load(exact(backend));
    options.adapter = "golden";
    const std::vector<float> vector = embed_tokens(model, inputs, options).front();
    const auto vocab = static_cast<std::size_t>(model->info().vocab);
    std::vector<float> logits;
    std::vector<float> row(vector.size());
    for (std::size_t token = 0; token < vocab; ++token) {
      head.decode_row(static_cast<std::int64_t>(token), static_cast<std::int64_t>(row.size()), row.data());
      logits.push_back(static_cast<float>(std::inner_product(row.begin(), row.end(), vector.begin(), 0.0)));
    }
    const std::vector<float> expected(golden.logits.end() - static_cast<std::ptrdiff_t>(vocab), golden.logits.end());
    EXPECT_LT(largest_difference(logits, expected), tolerance(backend)) << backend;
    options.adapter = "";
    EXPECT_GT(largest_difference(embed_tokens(model, inputs, options).front(), vector), 1e-2) << backend;
    options.adapter = "other";
    expect_error(ErrorCode::kInvalidArgument, "adapter is other, which was not loaded",
                 [&] { embed_tokens(model, inputs, options); });
  }
}

TEST(AdapterSteps, AllocateNothing) {
  for (const char* const name :
       {"qwen3-tiny-embedding", "gemma3-embedding", "gemma4-embeddings", "qwen3-moe-attention", "glm4-latent"}) {
    const GoldenAdapter golden(name);
    const auto pool = shared_pool(2);
    const auto checkpoint = open_checkpoint(golden.model.folder);
    const Plan plan = build_plan(read_model_config(*checkpoint, {}));
    std::vector<Adapter> adapters;
    adapters.push_back(bind_adapter(PeftAdapter(golden.folder), "golden", 1, plan, *checkpoint, *pool));
    PrepareOptions options;
    options.adapters = adapters;
    const auto model = make_backend("cpu", {pool, ""})->prepare(plan, *checkpoint, options);
    for (const bool hidden : {false, true}) {
      RunnerLimits limits{.tokens = 32, .selected = 2, .sequences = 2, .pages = 8};
      limits.hidden = hidden;
      const auto runner = model->make_runner(limits, CacheType::kF16);
      const std::vector<std::int32_t> pages{0, 1, 2, 3, 4, 5, 6, 7};
      std::int64_t past = 0;
      for (const int count : {16, 1, 2, 10}) {
        const std::array slices{SequenceSlice{0, count, past, std::span(pages).first(4), 0, 0},
                                SequenceSlice{count, count, past, std::span(pages).last(4)}};
        const std::array selected{count - 1, 2 * count - 1};
        const auto tokens = std::span(golden.model.ids).first(2 * static_cast<std::size_t>(count));
        const Batch batch{tokens, slices, selected};
        const std::int64_t before = allocations();
        runner->step(batch);
        EXPECT_EQ(allocations(), before) << name << ", " << count << " tokens";
        past += count;
      }
    }
  }
}

// PEFT's merge_and_unload().
TEST(MergedAdapter, WeightsAreThoseOfPeft) {
  const auto pool = shared_pool(2);
  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test_data("adapters"))) {
    const GoldenAdapter golden(entry.path().filename().string());
    auto checkpoint = open_checkpoint(golden.model.folder);
    const Plan plan = build_plan(read_model_config(*checkpoint, {}));
    Adapter adapter = bind_adapter(PeftAdapter(golden.folder), "a", 1, plan, *checkpoint, *pool);
    const std::string& embedding = plan.find<EmbeddingOp>()->weight;
    const bool tied = std::any_of(plan.ops.begin(), plan.ops.end(), [&](const Op& op) {
      const auto* const linear = op.as<LinearOp>();
      return linear != nullptr && linear->weight == embedding;
    });
    if (tied && (adapter.embeddings.contains(embedding) || adapter.linears.contains(embedding))) {
      expect_error(ErrorCode::kUnsupported, "both the embedding and the head",
                   [&] { merge_adapter(std::move(checkpoint), std::move(adapter), plan); });
      continue;
    }
    const auto merged = merge_adapter(std::move(checkpoint), std::move(adapter), plan);
    const SafetensorsFile file(golden.folder / "golden.safetensors");
    for (const auto& [name, view] : file.tensors()) {
      if (!name.starts_with("merged.")) continue;
      const std::string weight = name.substr(std::string_view("merged.").size());
      const Weight found = merged->load(weight, *pool);
      EXPECT_FALSE(found.packed());
      std::vector<float> values(view.bytes.size() / sizeof(float));
      found.decode_row(0, static_cast<std::int64_t>(values.size()), values.data());
      EXPECT_LT(largest_difference(values, read_tensor<float>(file, name)), 2e-6) << golden.folder << " " << weight;
      ++compared;
    }
  }
  EXPECT_GE(compared, 8);
}

// ---- what is refused --------------------------------------------------------

// A copy of an adapter that can be changed.
class ChangedAdapter {
 public:
  ChangedAdapter() {
    for (const char* const name : {"adapter_config.json", "adapter_model.safetensors"})
      std::filesystem::copy_file(test_data("adapters/qwen3-tiny-embedding") / name, folder_.path() / name);
  }
  void set(const std::string& key, const Json& value) {
    Json config = read_json_file(folder_.path() / "adapter_config.json");
    config[key] = value;
    std::ofstream(folder_.path() / "adapter_config.json") << config.dump();
  }
  // Of the same length.
  void rename(const std::string& from, const std::string& to) {
    const auto path = folder_.path() / "adapter_model.safetensors";
    std::ifstream in(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), {}};
    const std::size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos);
    ASSERT_EQ(from.size(), to.size());
    bytes.replace(at, from.size(), to);
    std::ofstream(path, std::ios::binary) << bytes;
  }
  void refused(ErrorCode code, const std::string& text) const {
    LoadOptions options = exact();
    options.adapters = {{"changed", folder_.path(), 1}};
    expect_error(code, text, [&] { Model::load(test_data("fixtures/qwen3-tiny"), options); });
  }
  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

TEST(AdapterErrors, FieldsThatAskForMoreAreNamed) {
  const std::vector<std::pair<std::string, Json>> cases{{"use_dora", true},
                                                        {"modules_to_save", {"lm_head"}},
                                                        {"lora_bias", true},
                                                        {"bias", "all"},
                                                        {"bias", "lora_only"},
                                                        {"peft_type", "IA3"},
                                                        {"init_lora_weights", "pissa"},
                                                        {"layer_replication", {{0, 4}}},
                                                        {"target_parameters", {"experts.down_proj"}},
                                                        {"trainable_token_indices", {1, 2}},
                                                        {"something_new", 7}};
  for (const auto& [key, value] : cases) {
    ChangedAdapter adapter;
    adapter.set(key, value);
    adapter.refused(ErrorCode::kUnsupported, "field " + key + " is ");
  }
}

TEST(AdapterErrors, TensorsThatDoNotFitAreNamed) {
  ChangedAdapter rank;
  rank.set("r", 6);
  rank.refused(ErrorCode::kCorruptFile, "adapter_config.json has rank 6");
  ChangedAdapter targets;
  targets.set("target_modules", {"embed_tokens", "v_proj"});
  targets.refused(ErrorCode::kUnsupported, "target_modules of adapter_config.json does not name its module");
  ChangedAdapter half;
  half.rename("layers.0.mlp.up_proj.lora_A.weight", "layers.9.mlp.up_proj.lora_A.weight");
  half.refused(ErrorCode::kCorruptFile, "without the other");
  ChangedAdapter unknown;
  unknown.rename("layers.0.mlp.up_proj.lora_A.weight", "layers.7.mlp.up_proj.lora_A.weight");
  unknown.rename("layers.0.mlp.up_proj.lora_B.weight", "layers.7.mlp.up_proj.lora_B.weight");
  unknown.refused(ErrorCode::kNotFound, "module model.layers.7.mlp.up_proj: the model has no such module");
  ChangedAdapter magnitude;
  magnitude.rename("up_proj.lora_A.weight", "up_proj.lora_magnitud");
  magnitude.refused(ErrorCode::kUnsupported, "lora_magnitud");
  ChangedAdapter prefix;
  prefix.rename("base_model.model.model.embed_tokens.lora_embedding_A",
                "best_model.model.model.embed_tokens.lora_embedding_A");
  prefix.refused(ErrorCode::kUnsupported, "expected a name that begins with base_model.model.");
}

TEST(AdapterErrors, FilesThatAreNoneAreNamed) {
  LoadOptions options = exact();
  const auto refused = [&](const std::filesystem::path& path, ErrorCode code, const std::string& text) {
    options.adapters = {{"a", path, 1}};
    expect_error(code, text, [&] { Model::load(test_data("fixtures/qwen3-tiny"), options); });
  };
  refused("/nonexistent", ErrorCode::kNotFound, "no such file or folder");
  refused(test_data("fixtures/qwen3-tiny"), ErrorCode::kNotFound, "adapter_config.json is missing");
  refused(test_data("fixtures/qwen3-tiny/model.safetensors"), ErrorCode::kUnsupported, "GGUF's too, are not read");
  ChangedAdapter pickled;
  std::filesystem::rename(pickled.path() / "adapter_model.safetensors", pickled.path() / "adapter_model.bin");
  pickled.refused(ErrorCode::kUnsupported, "adapter_model.bin");
  // Of another model.
  refused(test_data("adapters/llama-tiny-patterns"), ErrorCode::kCorruptFile, "the model has");
}

TEST(AdapterErrors, NamesAreUniqueAndKnown) {
  LoadOptions options = exact();
  const auto folder = test_data("adapters/qwen3-tiny-embedding");
  options.adapters = {{"a", folder, 1}, {"a", folder, 1}};
  expect_error(ErrorCode::kInvalidArgument, "two adapters are called a",
               [&] { Model::load(test_data("fixtures/qwen3-tiny"), options); });
  options.adapters = {{"a", folder, 1}, {"b", folder, 2}};
  const auto model = Model::load(test_data("fixtures/qwen3-tiny"), options);
  EXPECT_EQ(model->info().adapters, (std::vector<std::string>{"a", "b"}));
  Session session(model, {1, 32, 16, 1});
  expect_error(ErrorCode::kNotFound, "adapter c was not loaded; there is a, b", [&] { session.open("c"); });
}

}  // namespace
}  // namespace metal_marlin

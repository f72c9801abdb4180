// Whole models against logits of Hugging Face transformers.
#include "models/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "backends/cpu/kernels.h"
#include "backends/registry.h"
#include "metal_marlin/generate.h"
#include "models/config.h"

namespace metal_marlin {
namespace {

// Models on backends. Of the host executor, whose steps take long, some are run in short (GoldenInShort).
std::vector<std::pair<std::string, std::string>> golden_cases(bool in_full) {
  std::vector<std::pair<std::string, std::string>> cases;
  for (const std::string& model : golden_models()) {
    for (const std::string& backend : available_backends()) {
      if ((is_run_in_full(model) || backend != "msl-host") == in_full) cases.emplace_back(model, backend);
    }
  }
  return cases;
}

class GoldenModel : public testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  const Golden golden{GetParam().first};
  const std::string backend = GetParam().second;
};
std::string case_name(const testing::TestParamInfo<std::pair<std::string, std::string>>& test) {
  std::string name = test.param.first + "_" + test.param.second;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenModel, testing::ValuesIn(golden_cases(true)), case_name);

class GoldenInShort : public GoldenModel {};
INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenInShort, testing::ValuesIn(golden_cases(false)), case_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenInShort);  // of builds without the host executor

// Beyond a window and a page of the cache, at once, and the rest in chunks; then a token greedily.
TEST_P(GoldenInShort, LogitsMatchAtOnceAndInChunks) {
  const auto model = Model::load(golden.folder, exact(backend));
  EXPECT_LT(largest_difference(logits_in_chunks(model, golden.ids, golden.ids.size()), golden.logits),
            tolerance(backend));
  const std::span<const TokenId> few = std::span(golden.ids).first(36);
  const std::size_t vocab = golden.logits.size() / golden.ids.size();
  const std::vector<float> of_few(golden.logits.begin(),
                                  golden.logits.begin() + static_cast<std::ptrdiff_t>(few.size() * vocab));
  EXPECT_LT(largest_difference(logits_in_chunks(model, few, 7), of_few), tolerance(backend));
  GenerateOptions options;
  options.max_tokens = 4;
  options.ignore_end = true;
  const std::vector<TokenId> first(golden.greedy.begin(), golden.greedy.begin() + options.max_tokens);
  EXPECT_EQ(generate(model, golden.ids, options).tokens, first);
}

TEST_P(GoldenModel, LogitsMatchAtOnceInChunksAndByToken) {
  std::vector<std::string> instruction_sets;
  if (backend == "cpu") {
    for (const cpu::Kernels* const kernels : cpu::available_kernels()) instruction_sets.emplace_back(kernels->name);
  } else {
    instruction_sets.emplace_back();
  }
  for (const std::string& instruction_set : instruction_sets) {
    LoadOptions options = exact(backend);
    options.instruction_set = instruction_set;
    const auto model = Model::load(golden.folder, options);
    for (const std::size_t chunk : {std::size_t{96}, std::size_t{7}}) {
      EXPECT_LT(largest_difference(logits_in_chunks(model, golden.ids, chunk), golden.logits), tolerance(backend))
          << instruction_set << ", chunks of " << chunk;
    }
    // By the shaders beyond a page of the cache; their continuation below goes on token by token.
    const std::span<const TokenId> few = std::span(golden.ids).first(backend == "cpu" ? golden.ids.size() : 24);
    const std::size_t vocab = golden.logits.size() / golden.ids.size();
    const std::vector<float> of_few(golden.logits.begin(),
                                    golden.logits.begin() + static_cast<std::ptrdiff_t>(few.size() * vocab));
    EXPECT_LT(largest_difference(logits_in_chunks(model, few, 1), of_few), tolerance(backend))
        << instruction_set << ", by token";
    EXPECT_LT(largest_difference(logits_in_chunks(model, golden.ids, 96, 5), golden.logits), tolerance(backend))
        << "passes of 5";
  }
}

TEST_P(GoldenModel, GreedyContinuationMatches) {
  GenerateOptions options;
  options.max_tokens = static_cast<int>(golden.greedy.size());
  options.ignore_end = true;
  EXPECT_EQ(generate(Model::load(golden.folder, exact(backend)), golden.ids, options).tokens, golden.greedy);
}

// Several sequences of different lengths in one pass give what each gives alone.
TEST_P(GoldenModel, BatchesOfSequencesDoNotMix) {
  const auto model = Model::load(golden.folder, exact(backend));
  const std::span<const TokenId> ids(golden.ids);
  SessionOptions options;
  options.max_sequences = 3;
  options.cache_tokens = 300;
  options.batch_logits = 64;
  Session session(model, options);
  const std::array<std::size_t, 3> begins{0, 5, 40};
  std::array<SequenceId, 3> sequences{};
  std::array<std::size_t, 3> lengths{};
  for (SequenceId& sequence : sequences) sequence = session.open();
  std::array<std::vector<float>, 3> found;
  for (int round = 0; round < 4; ++round) {
    std::vector<SequenceInput> inputs;
    for (std::size_t s = 0; s < 3; ++s) {
      const std::size_t count = (s + 1) * static_cast<std::size_t>(round % 2 == 0 ? 1 : 4);
      inputs.push_back({sequences[s], ids.subspan(begins[s] + lengths[s], count), 0});
      lengths[s] += count;
    }
    session.step(inputs, [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows) {
        auto& out = found[static_cast<std::size_t>(row.input)];
        out.insert(out.end(), row.values.begin(), row.values.end());
      }
    });
  }
  for (std::size_t s = 0; s < 3; ++s) {
    const auto alone = logits_in_chunks(model, ids.subspan(begins[s], lengths[s]), 96);
    EXPECT_LT(largest_difference(found[s], alone), 1e-5) << "sequence " << s;
  }
}

TEST_P(GoldenModel, ForgottenTokensLeaveNoTrace) {
  const auto model = Model::load(golden.folder, exact(backend));
  const std::span<const TokenId> ids(golden.ids);
  Session session(model, {1, 96, 512, 16});
  const SequenceId sequence = session.open();
  session.step(std::array{SequenceInput{sequence, ids.first(50)}}, {});
  session.truncate(sequence, 21);
  std::vector<float> last;
  session.step(std::array{SequenceInput{sequence, ids.subspan(21, 30)}}, [&](std::span<const LogitsRow> rows) {
    last.assign(rows.back().values.begin(), rows.back().values.end());
  });
  const auto vocab = last.size();
  const std::vector<float> expected(golden.logits.begin() + static_cast<std::ptrdiff_t>(50 * vocab),
                                    golden.logits.begin() + static_cast<std::ptrdiff_t>(51 * vocab));
  EXPECT_LT(largest_difference(last, expected), tolerance(backend));
}

// The weights here are bf16, so the fast mode's error is that of the f16 cache
// and, where bf16 is multiplied, of activations rounded to 8 bits of mantissa: 2^-9
// at each of some 30 linears, adding up as a random walk. Where it makes a router
// choose another expert, a position may be off by more: one in ten of them.
TEST_P(GoldenModel, FastModeIsClose) {
  LoadOptions options;
  options.backend = backend;
  const auto model = Model::load(golden.folder, options);
  const auto vocab = static_cast<std::size_t>(model->info().vocab);
  float largest = 0;
  for (const float logit : golden.logits) largest = std::max(largest, std::fabs(logit));
  // Some tiles and the rest of one, where steps take long.
  const std::size_t count = backend == "cpu" ? golden.ids.size() : 44;
  const std::vector<float> found = logits_in_chunks(model, std::span(golden.ids).first(count), 96);
  std::size_t off = 0;
  for (std::size_t t = 0; t < count; ++t) {
    const auto row = [&](const std::vector<float>& logits) {
      const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(t * vocab);
      return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(vocab));
    };
    if (!(largest_difference(row(found), row(golden.logits)) < 2e-2F + 0x1p-6F * largest)) ++off;
  }
  const Json config = read_json_file(golden.folder / "config.json");
  const bool experts = config.contains("num_experts_per_tok") || config.value("enable_moe_block", false);
  EXPECT_LE(off, experts ? count / 10 : 0);
}

TEST_P(GoldenModel, ThreadsDoNotChangeTheResult) {
  LoadOptions one = exact(backend);
  one.threads = 1;
  LoadOptions three = exact(backend);
  three.threads = 3;
  EXPECT_EQ(logits_in_chunks(Model::load(golden.folder, one), golden.ids, 13),
            logits_in_chunks(Model::load(golden.folder, three), golden.ids, 13));
}

TEST(ModelErrors, AreNamed) {
  expect_error(ErrorCode::kNotFound, "no such file or folder", [] { Model::load("/nonexistent"); });
  const auto model = Model::load(test_data("fixtures/llama-tiny"));
  Session session(model, {1, 32, 16, 1});
  const SequenceId sequence = session.open();
  const std::vector<TokenId> bad{1, 384};
  expect_error(ErrorCode::kInvalidArgument, "token id 384 is outside the vocabulary of 384", [&] {
    session.step(std::array{SequenceInput{sequence, bad}}, {});
  });
  const std::vector<TokenId> many(33, 1);
  expect_error(ErrorCode::kInvalidArgument, "the cache is full", [&] {
    session.step(std::array{SequenceInput{sequence, many}}, {});
  });
  EXPECT_EQ(session.length(sequence), 0);
  expect_error(ErrorCode::kInvalidArgument, "sequence 5 is not open", [&] { session.close(5); });
}

Json llama_config() {
  return {{"model_type", "llama"},   {"vocab_size", 64},       {"hidden_size", 32},
          {"intermediate_size", 64}, {"num_hidden_layers", 2}, {"num_attention_heads", 4}};
}

TEST(ModelConfig, OldAndNewKeysMeanTheSame) {
  Json old_keys = llama_config();
  old_keys["rope_theta"] = 5e5;
  old_keys["rope_scaling"] = {{"type", "llama3"},
                              {"factor", 8},
                              {"low_freq_factor", 1},
                              {"high_freq_factor", 4},
                              {"original_max_position_embeddings", 64}};
  Json new_keys = llama_config();
  new_keys["rope_parameters"] = old_keys["rope_scaling"];
  new_keys["rope_parameters"].erase("type");
  new_keys["rope_parameters"]["rope_type"] = "llama3";
  new_keys["rope_parameters"]["rope_theta"] = 5e5;
  std::vector<float> a(4);
  std::vector<float> b(4);
  rope_frequencies(parse_model_config(old_keys, nullptr, "c").ropes.at(0), 1, a);
  rope_frequencies(parse_model_config(new_keys, nullptr, "c").ropes.at(0), 1, b);
  EXPECT_EQ(a, b);
}

TEST(ModelConfig, CollectsEndTokensOfBothFiles) {
  Json config = llama_config();
  config["eos_token_id"] = 2;
  const Json generation = {{"eos_token_id", {2, 7, 9}}};
  const auto ends = parse_model_config(config, generation, "c").end_tokens;
  EXPECT_EQ(std::set<std::int64_t>(ends.begin(), ends.end()), (std::set<std::int64_t>{2, 7, 9}));
}

TEST(ModelConfig, SparseLayersAreReadFromOldAndNewKeys) {
  Json config = read_json_file(test_data("fixtures/glm4-moe-lite-tiny/config.json"));
  config["num_nextn_predict_layers"] = 1;
  const ModelConfig listed = parse_model_config(config, nullptr, "c");
  EXPECT_EQ(listed.sparse, (std::vector<bool>{false, true, true}));
  EXPECT_EQ(listed.mtp_layers, 1);
  config.erase("mlp_layer_types");
  for (const int dense : {0, 1, 2}) {  // which the reference implementation does not read: the first layer is dense
    config["first_k_dense_replace"] = dense;
    EXPECT_EQ(parse_model_config(config, nullptr, "c").sparse, listed.sparse);
  }

  Json qwen = read_json_file(test_data("fixtures/qwen3-moe/config.json"));
  qwen["num_experts"] = qwen["num_local_experts"];
  qwen.erase("num_local_experts");
  EXPECT_EQ(parse_model_config(qwen, nullptr, "c").sparse, (std::vector<bool>{true, false, true}));
  qwen["decoder_sparse_step"] = 3;
  EXPECT_EQ(parse_model_config(qwen, nullptr, "c").sparse, (std::vector<bool>{false, false, true}));
  qwen["num_experts_per_tok"] = 12;
  expect_error(ErrorCode::kCorruptFile, "num_experts_per_tok", [&] { parse_model_config(qwen, nullptr, "c"); });
}

TEST(ModelConfig, UnsupportedFeaturesAreNamed) {
  const auto with = [](const char* key, const Json& value) {
    Json config = llama_config();
    config[key] = value;
    return parse_model_config(config, nullptr, "config.json");
  };
  expect_error(ErrorCode::kUnsupported, "hidden_act", [&] { with("hidden_act", "relu"); });
  expect_error(ErrorCode::kUnsupported, "rope_type is 'axial'", [&] {
    with("rope_scaling", {{"rope_type", "axial"}, {"factor", 2}});
  });
  expect_error(ErrorCode::kCorruptFile, "num_key_value_heads", [&] { with("num_key_value_heads", 3); });
  expect_error(ErrorCode::kCorruptFile, "field hidden_size is \"32\", expected an integer",
               [&] { with("hidden_size", "32"); });
  expect_error(ErrorCode::kCorruptFile, "num_hidden_layers", [&] { with("num_hidden_layers", std::int64_t{1} << 40); });
  expect_error(ErrorCode::kUnsupported,
               "architecture mamba is not one we implement; known: llama, smollm3, qwen2, qwen3, qwen2_moe",
               [&] { with("model_type", "mamba"); });
}

}  // namespace
}  // namespace metal_marlin

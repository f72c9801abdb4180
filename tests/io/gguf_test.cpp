#include "io/gguf.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/gguf_blocks.h"
#include "io/gguf_byte_order.h"
#include "io/gguf_model.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

// Random blocks of every type against the gguf package's values.
class GgufBlocks : public testing::Test {
 protected:
  MappedFile file_{test_data("gguf_blocks.gguf")};
  Gguf gguf_ = parse_gguf(file_.bytes(), "gguf_blocks.gguf");
  SafetensorsFile expected_{test_data("gguf_blocks.safetensors")};
};

void expect_same(float found, float expected, const std::string& where) {
  if (std::isinf(expected)) {
    EXPECT_EQ(found, expected) << where;
  } else {
    // The package multiplies in another order: a few units in the last place.
    EXPECT_NEAR(found, expected, 4e-7 * std::fabs(expected) + 1e-38) << where;
  }
}

TEST_F(GgufBlocks, EveryTypeDecodesLikeTheGgufPackage) {
  EXPECT_EQ(gguf_.tensors.size(), 15U);
  for (const auto& [name, tensor] : gguf_.tensors) {
    const auto expected = read_tensor<float>(expected_, name);
    const std::int64_t cols = tensor.shape[1];
    const std::size_t row_bytes = gguf_row_bytes(tensor.type, cols);
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::size_t r = 0; r < static_cast<std::size_t>(tensor.shape[0]); ++r) {
      gguf_decode_row(tensor.type, tensor.bytes.subspan(r * row_bytes, row_bytes), cols, row.data());
      for (std::size_t i = 0; i < row.size(); ++i) expect_same(row[i], expected[r * row.size() + i], name);
    }
  }
}

TEST_F(GgufBlocks, PackableTypesAreConvertedWithoutLoss) {
  ThreadPool pool(2);
  int packed_types = 0;
  for (const auto& [name, tensor] : gguf_.tensors) {
    if (!gguf_packed_spec(tensor.type)) continue;
    ++packed_types;
    const auto expected = read_tensor<float>(expected_, name);
    // Rows in reverse, as a permutation would ask for them.
    const std::int64_t rows = tensor.shape[0];
    const PackedMatrix matrix = gguf_to_packed(
        tensor, [&](std::int64_t row) { return rows - 1 - row; }, pool);
    std::vector<float> row(static_cast<std::size_t>(tensor.shape[1]));
    for (std::int64_t r = 0; r < rows; ++r) {
      matrix.view().decode_row(rows - 1 - r, row.data());
      for (std::size_t i = 0; i < row.size(); ++i)
        expect_same(row[i], expected[static_cast<std::size_t>(r) * row.size() + i], name);
    }
  }
  EXPECT_EQ(packed_types, 7);
}

TEST_F(GgufBlocks, BigEndianFilesHoldTheSameBytes) {
  const MappedFile file(test_data("gguf_blocks_big_endian.gguf"));
  ASSERT_TRUE(is_big_endian_gguf(file.bytes()));
  const std::vector<std::byte> turned = little_endian_gguf(file.bytes(), "big");
  const Gguf big = parse_gguf(turned, "big");
  EXPECT_EQ(big.tensors.size(), gguf_.tensors.size() - 2);
  for (const auto& [name, tensor] : big.tensors) {
    const GgufTensor& expected = gguf_.tensors.at(name);
    EXPECT_EQ(tensor.type, expected.type) << name;
    EXPECT_EQ(tensor.shape, expected.shape) << name;
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), expected.bytes.begin(), expected.bytes.end()))
        << name;
  }
}

TEST(BigEndianGguf, RefusesTypesWhoseOrderIsNotKnown) {
  for (const std::uint64_t type : {6U, 7U}) {  // Q5_0, Q5_1
    std::vector<std::byte> bytes;
    const auto put = [&](std::uint64_t value, int size) {
      for (int i = size - 1; i >= 0; --i) bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
    };
    put(0x47475546, 4);  // GGUF
    put(3, 4);
    put(1, 8);
    put(0, 8);
    put(1, 8);
    put('t', 1);
    put(1, 4);
    put(32, 8);
    put(type, 4);
    put(0, 8);
    bytes.resize(64 + 24);
    expect_error(ErrorCode::kUnsupported, fmt::format("tensor t: type Q5_{} in a big-endian file", type - 6),
                 [&] { little_endian_gguf(bytes, "x"); });
  }
}

TEST_F(GgufBlocks, ScalesOfTwoLevelsArePackedWithoutLoss) {
  ThreadPool pool(2);
  int types = 0;
  for (const auto& [name, tensor] : gguf_.tensors) {
    if (!gguf_two_level_spec(tensor.type)) continue;
    ++types;
    const auto expected = read_tensor<float>(expected_, name);
    const std::int64_t rows = tensor.shape[0];
    const std::int64_t cols = tensor.shape[1];
    const auto matrix = std::make_shared<PackedMatrix>(gguf_to_packed(
        tensor, [&](std::int64_t row) { return rows - 1 - row; }, pool));
    const PackedView view = matrix->view();
    view.check_sizes(name);
    view.check_finite(name);
    EXPECT_EQ(PackedLayout(view.spec, rows, cols).total_bytes(), tensor.bytes.size()) << name;
    const std::size_t row_bytes = gguf_row_bytes(tensor.type, cols);
    std::vector<float> row(static_cast<std::size_t>(cols));
    std::vector<float> block(row.size());
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto at = static_cast<std::size_t>(rows - 1 - r);
      Weight{view, matrix}.rows(r, 1).decode_row(0, cols, row.data());
      gguf_decode_row(tensor.type, tensor.bytes.subspan(at * row_bytes, row_bytes), cols, block.data());
      EXPECT_EQ(row, block) << name;
      for (std::size_t i = 0; i < row.size(); ++i) expect_same(row[i], expected[at * row.size() + i], name);
    }
    matrix->scales[1] = std::byte{0x7C};  // no super-block may have an infinite scale
    expect_error(ErrorCode::kCorruptFile, name + ": the scale of row 0, group 0 is not finite",
                 [&] { view.check_finite(name); });
    matrix->sub_scales.pop_back();
    expect_error(ErrorCode::kCorruptFile, name + ": scales of groups take", [&] { matrix->view().check_sizes(name); });
  }
  EXPECT_EQ(types, 6);
}

std::vector<std::byte> bytes_in(const std::string& text) {
  const auto* const data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

TEST(Gguf, BadFilesAreRefusedByName) {
  const auto folder = test_data("../fuzz/corpus/gguf");
  const auto parse = [&](const char* name) {
    const MappedFile file(folder / name);
    return parse_gguf(file.bytes(), name);
  };
  expect_error(ErrorCode::kCorruptFile, "tensors do not fit the file", [&] { parse("many_tensors"); });
  expect_error(ErrorCode::kCorruptFile, "values do not fit the file", [&] { parse("many_values"); });
  expect_error(ErrorCode::kUnsupported, "version 9, expected 2 or 3", [&] { parse("version"); });
  expect_error(ErrorCode::kCorruptFile, "key k: array of", [&] { parse("huge_array"); });
  expect_error(ErrorCode::kCorruptFile, "key k: array of", [&] { parse("huge_strings"); });
  expect_error(ErrorCode::kCorruptFile, "nest too deeply", [&] { parse("nested"); });
  expect_error(ErrorCode::kCorruptFile, "general.alignment", [&] { parse("alignment"); });
  expect_error(ErrorCode::kCorruptFile, "tensor t: bytes", [&] { parse("tensor_past_end"); });
  expect_error(ErrorCode::kCorruptFile, "tensor t: shape", [&] { parse("tensor_overflow"); });
  expect_error(ErrorCode::kCorruptFile, "tensor t appears twice", [&] { parse("twice"); });
  expect_error(ErrorCode::kUnsupported, "tensor t: type 77", [&] { parse("kind"); });
  expect_error(ErrorCode::kCorruptFile, "magic is not GGUF", [&] { parse_gguf(bytes_in("GGML \x01\x02"), "x"); });
  expect_error(ErrorCode::kCorruptFile, "x: is a zip archive",
               [&] { parse_gguf(bytes_in("PK\x03\x04 something"), "x"); });
}

Gguf llama_metadata() {
  Gguf gguf;
  gguf.where = "test.gguf";
  gguf.values = {{"general.architecture", std::string_view("llama")},
                 {"llama.block_count", std::uint64_t{2}},
                 {"llama.embedding_length", std::uint64_t{64}},
                 {"llama.feed_forward_length", std::uint64_t{128}},
                 {"llama.attention.head_count", std::uint64_t{4}},
                 {"llama.attention.head_count_kv", std::uint64_t{2}},
                 {"llama.rope.freq_base", 500000.0},
                 {"llama.vocab_size", std::uint64_t{100}}};
  return gguf;
}

// A file that is no part has other keys of splits for nothing, as in llama.cpp.
TEST(GgufSplit, CountsAreBounded) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "m.gguf";
  const auto open = [&](const std::string& key, std::int32_t value) {
    std::string bytes("GGUF\3\0\0\0", 8);
    const auto put = [&](std::uint64_t number, std::size_t size) {
      for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(number >> (8 * i));
    };
    put(0, 8);
    put(1, 8);
    put(key.size(), 8);
    bytes += key;
    put(5, 4);  // i32
    put(static_cast<std::uint32_t>(value), 4);
    std::ofstream(path, std::ios::binary) << bytes;
    static_cast<void>(open_checkpoint(path));
  };
  for (const int count : {-3, 65536})
    expect_error(ErrorCode::kCorruptFile,
                 fmt::format("m.gguf: key split.count is {}, expected an integer from 0 to 65535", count),
                 [&] { open("split.count", count); });
  expect_error(ErrorCode::kCorruptFile, "m.gguf: key split.count is 2, expected a name such as",
               [&] { open("split.count", 2); });
  for (const auto& [key, value] : {std::pair("split.count", 0), std::pair("split.count", 1), std::pair("split.no", 7),
                                   std::pair("split.tensors.count", 9)})
    expect_error(ErrorCode::kNotFound, "key general.architecture is missing",
                 [&, &key = key, &value = value] { open(key, value); });
}

TEST(Gguf, RotaryRowsArePermutedPerHead) {
  // Head size 6: the file has rows 0 3 1 4 2 5 of each head.
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < 12; ++row) rows.push_back(gguf_rope_row(row, 6));
  EXPECT_EQ(rows, (std::vector<std::int64_t>{0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11}));
}

const GgufArchitecture& architecture(std::string_view name) {
  Gguf gguf;
  gguf.values["general.architecture"] = name;
  return gguf_architecture(gguf);
}

TEST(Gguf, TensorNamesBecomeHuggingFaceNames) {
  const GgufArchitecture& llama = architecture("llama");
  EXPECT_EQ(gguf_tensor_name(llama, "blk.12.attn_q.weight"), "model.layers.12.self_attn.q_proj.weight");
  EXPECT_EQ(gguf_tensor_name(llama, "blk.0.attn_q_norm.weight"), "model.layers.0.self_attn.q_norm.weight");
  EXPECT_EQ(gguf_tensor_name(llama, "output.weight"), "lm_head.weight");
  EXPECT_EQ(gguf_tensor_name(llama, "output_norm.weight"), "model.norm.weight");
  EXPECT_EQ(gguf_tensor_name(llama, "blk.3.ffn_gate_inp.weight"), "model.layers.3.mlp.gate.weight");
  EXPECT_EQ(gguf_tensor_name(llama, "blk.3.ffn_down_exps.weight"), "model.layers.3.mlp.experts.*.down_proj.weight");
  EXPECT_EQ(gguf_tensor_name(llama, "rope_freqs.weight"), std::nullopt);
  EXPECT_EQ(gguf_tensor_name(llama, "blk.0.post_attention_norm.weight"), std::nullopt);
  // The same name, of other norms.
  for (const auto& [name, norm] :
       {std::pair("gemma2", "post_attention_layernorm"), std::pair("glm4", "post_self_attn_layernorm")})
    EXPECT_EQ(gguf_tensor_name(architecture(name), "blk.0.post_attention_norm.weight"),
              fmt::format("model.layers.0.{}.weight", norm));
  EXPECT_EQ(gguf_tensor_name(architecture("gemma3"), "blk.2.ffn_norm.weight"),
            "model.layers.2.pre_feedforward_layernorm.weight");
  EXPECT_EQ(gguf_tensor_name(architecture("phi3"), "blk.2.ffn_up.weight"), "model.layers.2.mlp.gate_up_proj.weight");
  const GgufArchitecture& gemma4 = architecture("gemma4");
  for (const auto& [name, full] : std::initializer_list<std::pair<const char*, const char*>>{
           {"per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"},
           {"blk.1.layer_output_scale.weight", "model.layers.1.layer_scalar"},
           {"blk.1.ffn_gate_inp.scale", "model.layers.1.router.scale"},
           {"blk.1.ffn_down_exps.scale", "model.layers.1.router.per_expert_scale"},
           {"blk.1.post_ffw_norm_2.weight", "model.layers.1.post_feedforward_layernorm_2.weight"},
           {"blk.1.post_ffw_norm.weight", "model.layers.1.post_feedforward_layernorm.weight"}}) {
    EXPECT_EQ(gguf_tensor_name(gemma4, name), full);
    EXPECT_EQ(gguf_name_of(gemma4, full), name);
  }
}

// Errors about weights speak of what the file calls them, or would.
TEST(Gguf, HuggingFaceNamesBecomeTensorNames) {
  const GgufArchitecture& llama = architecture("llama");
  for (const char* const name :
       {"blk.12.attn_q.weight", "blk.0.attn_q_norm.weight", "blk.3.attn_q.bias", "output.weight", "output_norm.weight",
        "token_embd.weight", "blk.7.ffn_gate_inp.weight", "blk.7.ffn_gate.weight"})
    EXPECT_EQ(gguf_name_of(llama, gguf_tensor_name(llama, name).value()), name);
  EXPECT_EQ(gguf_name_of(llama, "model.layers.31.mlp.experts.12.down_proj.weight"), "blk.31.ffn_down_exps.weight");
  for (const char* const other : {"", "model.layers.3", "model.layers.3.visual.weight", "model.layers.3.mlp.experts."})
    EXPECT_EQ(gguf_name_of(llama, other), other);
  EXPECT_EQ(gguf_name_of(architecture("gemma2"), "model.layers.0.post_attention_layernorm.weight"),
            "blk.0.post_attention_norm.weight");
  EXPECT_EQ(gguf_name_of(architecture("glm4"), "model.layers.0.post_attention_layernorm.weight"),
            "blk.0.ffn_norm.weight");
}

TEST(Gguf, ValuesOfTheWrongTypeAreTold) {
  Gguf gguf = llama_metadata();
  const std::array<std::byte, 8> bytes{};
  const std::string longer(100, 'x');
  for (const auto& [value, found] : std::initializer_list<std::pair<GgufValue, std::string>>{
           {1.5, "1.5"},
           {true, "true"},
           {std::string_view("abc"), "\"abc\""},
           {std::string_view(longer), "\"" + longer.substr(0, 60) + "...\""},
           {std::uint64_t{1} << 63, "9223372036854775808"},
           {GgufArray{4, 2, bytes}, "an array of 2 u32"}}) {
    gguf.values["llama.block_count"] = value;
    expect_error(ErrorCode::kCorruptFile,
                 fmt::format("test.gguf: key llama.block_count is {}, expected an integer", found),
                 [&] { gguf_config_json(gguf); });
  }
  gguf = llama_metadata();
  gguf.values["llama.rope.freq_base"] = std::string_view("1e6");
  expect_error(ErrorCode::kCorruptFile, "key llama.rope.freq_base is \"1e6\", expected a number",
               [&] { gguf_config_json(gguf); });
  gguf.values["general.architecture"] = std::int64_t{-1};
  expect_error(ErrorCode::kCorruptFile, "key general.architecture is -1, expected a string",
               [&] { gguf_config_json(gguf); });
  expect_error(ErrorCode::kCorruptFile, "key general.architecture is -1, expected an array",
               [&] { static_cast<void>(gguf.strings("general.architecture")); });
}

// The key that is named is the one that is wrong.
TEST(Gguf, SizesOfHeadsMustBeThoseOfTheTensors) {
  Gguf gguf = llama_metadata();
  gguf.tensors["blk.0.attn_q.weight"] = {GgufType::kF32, {64, 64}, {}};
  gguf.values["llama.rope.dimension_count"] = std::uint64_t{16};
  EXPECT_EQ(gguf_config_json(gguf)["head_dim"], 16);
  gguf.values["llama.attention.key_length"] = std::uint64_t{32};
  expect_error(ErrorCode::kCorruptFile,
               "key llama.attention.key_length makes 4 heads of 32, but tensor blk.0.attn_q.weight is [64, 64]",
               [&] { gguf_config_json(gguf); });
  gguf.values["llama.attention.key_length"] = std::uint64_t{16};
  gguf.values["llama.rope.dimension_count"] = std::uint64_t{8};
  expect_error(ErrorCode::kUnsupported,
               "key llama.rope.dimension_count is 8, expected 16, the size of heads by llama.attention.key_length",
               [&] { gguf_config_json(gguf); });
}

TEST(Gguf, Llama3FrequencyFactorsBecomeTheirRule) {
  Gguf gguf = llama_metadata();
  std::vector<float> factors(8);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double wavelength = 2 * 3.14159265358979 * std::pow(500000.0, static_cast<double>(i) / 8.0);
    if (wavelength < 2048) {
      factors[i] = 1;
    } else if (wavelength > 8192) {
      factors[i] = 8;
    } else {
      const double smooth = (8192 / wavelength - 1) / 3;
      factors[i] = static_cast<float>(1 / ((1 - smooth) / 8 + smooth));
    }
  }
  gguf.tensors["rope_freqs.weight"] = {GgufType::kF32, {8}, std::as_bytes(std::span(factors))};
  const Json rope = gguf_config_json(gguf)["rope_parameters"];
  EXPECT_EQ(rope["rope_type"], "llama3");
  EXPECT_EQ(rope["factor"], 8.0);
  factors[2] = 3;  // not the rule's: it stands for itself, at every length
  const Json other = gguf_config_json(gguf)["rope_parameters"];
  EXPECT_EQ(other["rope_type"], "longrope");
  EXPECT_EQ(other["short_factor"].get<std::vector<float>>(), factors);
  EXPECT_EQ(other["long_factor"], other["short_factor"]);
  EXPECT_EQ(other["attention_factor"], 1.0);
}

// As llama.cpp reads them: the kind is linear where it is left out, and YaRN's temperature is multiplied.
TEST(Gguf, RopeScaling) {
  Gguf gguf = llama_metadata();
  const auto rope = [&] { return gguf_config_json(gguf)["rope_parameters"]; };
  gguf.values["llama.rope.scaling.factor"] = 4.0;
  EXPECT_EQ(rope(), (Json{{"rope_type", "linear"}, {"rope_theta", 500000.0}, {"factor", 4.0}}));
  gguf.values["llama.rope.scaling.type"] = std::string_view("none");
  EXPECT_EQ(rope()["rope_type"], "default");
  gguf.values["llama.rope.scaling.type"] = std::string_view("yarn");
  gguf.values["llama.rope.scaling.yarn_beta_fast"] = 8.0;
  EXPECT_EQ(rope()["beta_fast"], 8.0);
  EXPECT_EQ(rope()["original_max_position_embeddings"], 2048);
  EXPECT_FALSE(rope().contains("attention_factor"));
  gguf.values["llama.rope.scaling.attn_factor"] = 0.5;
  EXPECT_DOUBLE_EQ(rope()["attention_factor"].get<double>(), 0.5 * (0.1 * std::log(4.0) + 1));
  gguf.values["llama.rope.scaling.yarn_ext_factor"] = 0.5;
  expect_error(ErrorCode::kUnsupported, "llama.rope.scaling.yarn_ext_factor", rope);
}

// Converters write what the configuration has, which stands for the temperature itself; llama.cpp takes the same from
// the factor.
TEST(Gguf, AttentionFactorIsYarnsTemperature) {
  Gguf gguf = llama_metadata();
  gguf.values["llama.rope.scaling.type"] = std::string_view("yarn");
  gguf.values["llama.rope.scaling.factor"] = 8.0;
  gguf.values["llama.rope.scaling.yarn_attn_factor"] = 1.2;
  const auto rope = [&] { return gguf_config_json(gguf)["rope_parameters"]; };
  EXPECT_EQ(rope()["attention_factor"], 1.2);
  gguf.values["llama.rope.scaling.attn_factor"] = 0.5;
  EXPECT_DOUBLE_EQ(rope()["attention_factor"].get<double>(), 0.6);
  gguf.values["llama.rope.scaling.type"] = std::string_view("linear");
  expect_error(ErrorCode::kUnsupported, "yarn_attn_factor: llama.rope.scaling.type is not yarn", rope);
}

Gguf metadata_of(std::string_view architecture) {
  Gguf gguf;
  gguf.where = "test.gguf";
  for (const auto& [key, value] : llama_metadata().values)
    gguf.values[key.starts_with("llama.") ? fmt::format("{}.{}", architecture, key.substr(6)) : key] = value;
  gguf.values["general.architecture"] = architecture;
  return gguf;
}

TEST(GgufArchitectures, WindowsAreOfLayersByFlagsOrByPeriod) {
  Gguf gguf = metadata_of("cohere2");
  gguf.values["cohere2.logit_scale"] = 0.5;
  gguf.values["cohere2.block_count"] = std::uint64_t{5};
  gguf.values["cohere2.attention.sliding_window"] = std::uint64_t{16};
  gguf.values.erase("cohere2.attention.layer_norm_rms_epsilon");
  const auto full = [&] {
    std::string out;
    const Json config = gguf_config_json(gguf);
    for (const Json& type : config["layer_types"]) out += type == "full_attention" ? 'F' : 'S';
    return out;
  };
  const char* const key = "cohere2.attention.sliding_window_pattern";
  EXPECT_EQ(full(), "SSSFS");
  for (const auto& [period, types] :
       {std::pair(0U, "SSSSS"), std::pair(1U, "FFFFF"), std::pair(2U, "SFSFS"), std::pair(9U, "SSSSS")}) {
    gguf.values[key] = std::uint64_t{period};
    EXPECT_EQ(full(), types);
  }
  const std::array<std::byte, 5> flags{std::byte{0}, std::byte{1}, std::byte{1}, std::byte{0}, std::byte{1}};
  gguf.values[key] = GgufArray{kGgufBool, 5, flags};
  EXPECT_EQ(full(), "FSSFS");
  gguf.values[key] = GgufArray{kGgufBool, 4, std::span(flags).first(4)};
  expect_error(ErrorCode::kCorruptFile,
               "cohere2.attention.sliding_window_pattern is an array of 4 bool, expected an entry for each of 5 layers",
               full);
}

TEST(GgufArchitectures, KeysOfAnotherAreNamed) {
  for (const auto& [name, key, value] : std::initializer_list<std::tuple<const char*, const char*, GgufValue>>{
           {"qwen2", "attention.sliding_window", std::uint64_t{16}},
           {"granite", "rope.scaling.finetuned", false},
           {"granite", "logit_scale", 0.0},
           {"olmo2", "attention.sliding_window_pattern", std::uint64_t{3}},
           {"gemma3", "attn_logit_softcapping", 50.0},
           {"glm4", "rope.dimension_count", std::uint64_t{7}},
           {"seed_oss", "rope.dimension_count", std::uint64_t{8}},
           {"smollm3", "nextn_predict_layers", std::uint64_t{1}},
           {"mistral3", "expert_count", std::uint64_t{8}},
           {"exaone4", "attention.scale", 0.3}}) {
    Gguf gguf = metadata_of(name);
    gguf.values[fmt::format("{}.{}", name, key)] = value;
    try {
      gguf_config_json(gguf);
      ADD_FAILURE() << name << " " << key;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(fmt::format("key {}.{}", name, key)), std::string::npos) << error.what();
    }
  }
}

// A file of Gemma 4 of two layers, the second without a window.
class Gemma4Keys : public testing::Test {
 protected:
  Gemma4Keys() {
    const auto number = [&](const char* key, std::uint64_t value) {
      gguf.values[std::string("gemma4.") + key] = value;
    };
    number("attention.sliding_window", 16);
    number("attention.sliding_window_pattern", 2);
    number("attention.key_length", 20);
    number("attention.key_length_swa", 12);
    gguf.values["gemma4.rope.freq_base_swa"] = 1000.0;
    gguf.values["gemma4.attention.head_count_kv"] = GgufArray{kI32, 2, std::as_bytes(std::span(key_heads))};
    gguf.tensors["rope_freqs.weight"] = {GgufType::kF32, {10}, std::as_bytes(std::span(factors))};
    gguf.tensors["blk.0.attn_v.weight"] = gguf.tensors["blk.1.attn_v.weight"] = {GgufType::kF32, {64, 64}, {}};
  }
  void refused(ErrorCode code, const std::string& text) const {
    expect_error(code, text, [&] { gguf_config_json(gguf); });
  }

  static constexpr std::uint32_t kI32 = 5;  // of GGUF's types
  std::array<std::int32_t, 2> key_heads{2, 1};
  std::array<float, 10> factors{1, 1, 1, 1e30F, 1e30F, 1e30F, 1e30F, 1e30F, 1e30F, 1e30F};
  Gguf gguf = metadata_of("gemma4");
};

TEST_F(Gemma4Keys, AreOfLayers) {
  const Json config = gguf_config_json(gguf);
  EXPECT_EQ(
      config["per_layer_config"],
      Json::parse(
          R"({"0": {"head_dim": 12, "num_key_value_heads": 2}, "1": {"head_dim": 20, "num_key_value_heads": 1}})"));
  EXPECT_EQ(config["rope_parameters"]["full_attention"]["rope_type"], "proportional");
  EXPECT_EQ(config["rope_parameters"]["full_attention"]["partial_rotary_factor"], 0.3);
  EXPECT_EQ(config["rope_parameters"]["sliding_attention"]["rope_theta"], 1000.0);
  EXPECT_EQ(config["attention_k_eq_v"], false);
  EXPECT_EQ(config["enable_moe_block"], false);
  gguf.tensors.erase("blk.1.attn_v.weight");
  EXPECT_EQ(gguf_config_json(gguf)["attention_k_eq_v"], true);
  gguf.values["gemma4.expert_count"] = std::uint64_t{4};
  gguf.values["gemma4.expert_used_count"] = std::uint64_t{2};
  gguf.values["gemma4.expert_feed_forward_length"] = std::uint64_t{32};
  EXPECT_EQ(gguf_config_json(gguf)["top_k_experts"], 2);
}

TEST_F(Gemma4Keys, ThatDoNotFitAreNamed) {
  factors[4] = 2;
  refused(ErrorCode::kUnsupported, "tensor rope_freqs.weight: expected ones, and then numbers from 1e29 on");
  factors[4] = 1e30F;
  const std::array<std::int32_t, 2> widths{72, 100};
  gguf.values["gemma4.feed_forward_length"] = GgufArray{kI32, 2, std::as_bytes(std::span(widths))};
  refused(ErrorCode::kUnsupported,
          "key gemma4.feed_forward_length");  // wider, but not twice, nor where keys are shared
  gguf.values["gemma4.feed_forward_length"] = std::uint64_t{72};
  gguf.values["gemma4.expert_count"] = std::uint64_t{4};
  gguf.values["gemma4.expert_used_count"] = std::uint64_t{5};
  refused(ErrorCode::kCorruptFile, "key gemma4.expert_used_count is 5");
  gguf.values.erase("gemma4.expert_count");
  gguf.values.erase("gemma4.expert_used_count");
  gguf.values["gemma4.rope.scaling.factor"] = 8.0;
  refused(ErrorCode::kUnsupported, "key gemma4.rope.scaling.factor");
  gguf.values.erase("gemma4.rope.scaling.factor");
  gguf.values["gemma4.attention.head_count_kv"] = GgufArray{kI32, 1, std::as_bytes(std::span(key_heads).first(1))};
  refused(ErrorCode::kCorruptFile, "key gemma4.attention.head_count_kv");
  // Of another architecture all layers are the same.
  Gguf other = metadata_of("llama");
  other.values["llama.attention.head_count_kv"] = GgufArray{kI32, 2, std::as_bytes(std::span(key_heads))};
  expect_error(ErrorCode::kUnsupported, "key llama.attention.head_count_kv", [&] { gguf_config_json(other); });
}

// Queries and keys lie by neighbours, also where they are stored with values as one.
TEST(GgufArchitectures, RowsOfQueriesAndKeysOfSomeLieByNeighbours) {
  const Json config = {{"head_dim", 4}, {"num_attention_heads", 2}, {"num_key_value_heads", 1}};
  const auto rows = [&](const char* name, const char* module, std::int64_t count) {
    const RowMap map = gguf_row_map(architecture(name), config, fmt::format("model.layers.0.self_attn.{}", module));
    std::vector<std::int64_t> out;
    for (std::int64_t row = 0; map && row < count; ++row) out.push_back(map(row));
    return out;
  };
  EXPECT_EQ(rows("granite", "q_proj.weight", 8), (std::vector<std::int64_t>{0, 2, 1, 3, 4, 6, 5, 7}));
  EXPECT_EQ(rows("smollm3", "k_proj.bias", 4), (std::vector<std::int64_t>{0, 2, 1, 3}));
  EXPECT_EQ(rows("mistral3", "qkv_proj.weight", 16),
            (std::vector<std::int64_t>{0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 13, 14, 15}));
  EXPECT_EQ(rows("granite", "v_proj.weight", 4), (std::vector<std::int64_t>{}));
  EXPECT_EQ(rows("cohere2", "q_proj.weight", 8), (std::vector<std::int64_t>{}));
}

TEST(Gguf, KeysThatAskForMoreAreNamed) {
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, GgufValue>>{{"llama.attention.sliding_window", std::uint64_t{64}},
                                                                {"llama.expert_used_count", std::uint64_t{2}},
                                                                {"llama.logit_scale", 0.5},
                                                                {"llama.something_new", true},
                                                                {"adapter.type", std::string_view("lora")},
                                                                {"general.type", std::string_view("mmproj")}}) {
    Gguf gguf = llama_metadata();
    gguf.values[key] = value;
    expect_error(ErrorCode::kUnsupported, key, [&] { gguf_config_json(gguf); });
  }
  Gguf gguf = llama_metadata();
  gguf.values["llama.attention.sliding_window"] = std::uint64_t{0};
  gguf.values["llama.rope.scaling.finetuned"] = true;
  EXPECT_NO_THROW(gguf_config_json(gguf));
}

Gguf experts_metadata() {
  Gguf gguf = metadata_of("qwen3moe");
  gguf.values["qwen3moe.expert_count"] = std::uint64_t{4};
  gguf.values["qwen3moe.expert_used_count"] = std::uint64_t{2};
  return gguf;
}

TEST(Gguf, CountsAreBounded) {
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, GgufValue>>{
           {"block_count", std::uint64_t{1000000000}},
           {"block_count", std::int64_t{0}},
           {"embedding_length", std::uint64_t{4000000000}},
           {"feed_forward_length", std::int64_t{-1}},
           {"attention.head_count", std::uint64_t{0}},
           {"attention.head_count_kv", std::uint64_t{1} << 40},
           {"attention.key_length", std::uint64_t{1} << 30},
           {"context_length", std::uint64_t{1} << 40},
           {"vocab_size", std::uint64_t{1} << 40},
           {"rope.scaling.original_context_length", std::int64_t{-5}},
           {"expert_count", std::uint64_t{1} << 20},
           {"expert_used_count", std::uint64_t{5}},
           {"expert_feed_forward_length", std::uint64_t{0}}}) {
    Gguf gguf = experts_metadata();
    gguf.values[std::string("qwen3moe.") + key] = value;
    expect_error(ErrorCode::kCorruptFile, fmt::format("key qwen3moe.{} is ", key), [&] { gguf_config_json(gguf); });
  }
}

TEST(Gguf, BlockCountCountsAllBlocks) {
  Gguf gguf = llama_metadata();
  gguf.tensors["blk.0.attn_q.weight"] = gguf.tensors["blk.1.attn_q.weight"] = {};
  EXPECT_EQ(gguf_config_json(gguf)["num_hidden_layers"], 2);
  gguf.tensors["blk.10.attn_q.weight"] = {};
  expect_error(ErrorCode::kCorruptFile,
               "key llama.block_count is 2, expected 11 as there is tensor blk.10.attn_q.weight",
               [&] { gguf_config_json(gguf); });
  for (const char* const name : {"blk.x.attn_q.weight", "blk.01.attn_q.weight", "blk.-1.attn_q.weight", "blk.7"}) {
    Gguf other = llama_metadata();
    other.values["llama.block_count"] = std::uint64_t{4};
    other.tensors[name] = {};
    expect_error(ErrorCode::kCorruptFile, name, [&] { gguf_config_json(other); });
  }
}

TEST(GgufExperts, KeysBecomeTheConfiguration) {
  Gguf gguf = experts_metadata();
  const Json config = gguf_config_json(gguf);
  EXPECT_EQ(config["model_type"], "qwen3_moe");
  EXPECT_EQ(config["num_experts"], 4);
  EXPECT_EQ(config["num_experts_per_tok"], 2);
  EXPECT_EQ(config["moe_intermediate_size"], 64);  // a part of feed_forward_length where no key says it
  EXPECT_EQ(config["norm_topk_prob"], true);
  gguf.values["qwen3moe.expert_feed_forward_length"] = std::uint64_t{32};
  gguf.values["qwen3moe.expert_weights_scale"] = 1.0;
  EXPECT_EQ(gguf_config_json(gguf)["moe_intermediate_size"], 32);
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, GgufValue>>{{"qwen3moe.expert_weights_scale", 2.5},
                                                                {"qwen3moe.expert_gating_func", std::uint64_t{2}},
                                                                {"qwen3moe.expert_shared_count", std::uint64_t{1}}}) {
    Gguf other = experts_metadata();
    other.values[key] = value;
    expect_error(ErrorCode::kUnsupported, key, [&] { gguf_config_json(other); });
  }
}

// What no key says, and what each has its own keys for.
TEST(GgufExperts, OfOtherArchitectures) {
  const auto config_of = [](const char* name, std::initializer_list<std::pair<const char*, GgufValue>> more = {}) {
    Gguf gguf = metadata_of(name);
    gguf.values[fmt::format("{}.expert_count", name)] = std::uint64_t{4};
    gguf.values[fmt::format("{}.expert_used_count", name)] = std::uint64_t{2};
    for (const auto& [key, value] : more) gguf.values[fmt::format("{}.{}", name, key)] = value;
    return gguf_config_json(gguf);
  };
  Json qwen = config_of("qwen2moe");
  EXPECT_EQ(qwen["model_type"], "qwen2_moe");
  EXPECT_EQ(qwen["norm_topk_prob"], false);
  EXPECT_EQ(qwen["qkv_bias"], false);
  EXPECT_EQ(qwen["moe_intermediate_size"], 64);
  EXPECT_EQ(qwen["shared_expert_intermediate_size"], 128);
  qwen = config_of("qwen2moe", {{"expert_shared_feed_forward_length", std::uint64_t{32}}});
  EXPECT_EQ(qwen["shared_expert_intermediate_size"], 32);
  const Json mixtral = config_of("llama");
  EXPECT_EQ(mixtral["model_type"], "mixtral");
  EXPECT_EQ(mixtral["num_experts"], 4);
  EXPECT_EQ(config_of("olmoe")["norm_topk_prob"], false);
  const Json minimax = config_of("minimax-m2", {{"expert_gating_func", std::uint64_t{2}},
                                                {"expert_feed_forward_length", std::uint64_t{128}},
                                                {"rope.dimension_count", std::uint64_t{4}}});
  EXPECT_EQ(minimax["model_type"], "minimax_m2");
  EXPECT_EQ(minimax["num_experts_per_tok"], 2);
  expect_error(ErrorCode::kUnsupported, "key minimax-m2.expert_gating_func is 1, expected 2", [&] {
    config_of("minimax-m2", {{"expert_gating_func", std::uint64_t{1}}});
  });
  expect_error(ErrorCode::kUnsupported, "key minimax-m2.expert_feed_forward_length is 64, expected 128", [&] {
    config_of("minimax-m2", {{"expert_feed_forward_length", std::uint64_t{64}}});
  });
  expect_error(ErrorCode::kUnsupported, "key olmoe.expert_feed_forward_length", [&] {
    config_of("olmoe", {{"expert_feed_forward_length", std::uint64_t{64}}});
  });
  for (const auto& [name, gguf, hf] :
       {std::tuple("qwen2moe", "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"),
        std::tuple("qwen2moe", "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"),
        std::tuple("minimax-m2", "exp_probs_b.bias", "mlp.gate.e_score_correction_bias")}) {
    const std::string own = fmt::format("blk.3.{}", gguf);
    const std::string theirs = fmt::format("model.layers.3.{}", hf);
    EXPECT_EQ(gguf_tensor_name(architecture(name), own), theirs);
    EXPECT_EQ(gguf_name_of(architecture(name), theirs), own);
  }
}

// The converter writes a matrix of one row as a vector.
TEST(GgufExperts, TheGateOfASharedExpertIsAMatrix) {
  const std::vector<std::byte> bytes(32 * 4);
  const auto weights = gguf_weights(experts_metadata(), "blk.0.ffn_gate_inp_shexp.weight",
                                    "model.layers.0.mlp.shared_expert_gate.weight", {GgufType::kF32, {32}, bytes});
  ASSERT_EQ(weights.size(), 1U);
  EXPECT_EQ(weights[0].second.shape, (Shape{1, 32}));
}

TEST(GgufExperts, ATensorHoldsAMatrixForEach) {
  const Gguf gguf = experts_metadata();
  const std::vector<std::byte> bytes(4 * 2 * 34);
  const GgufTensor tensor{GgufType::kQ8_0, {4, 2, 32}, bytes};
  const auto weights =
      gguf_weights(gguf, "blk.0.ffn_up_exps.weight", "model.layers.0.mlp.experts.*.up_proj.weight", tensor);
  ASSERT_EQ(weights.size(), 4U);
  EXPECT_EQ(weights[3].first, "model.layers.0.mlp.experts.3.up_proj.weight");
  EXPECT_EQ(weights[3].second.shape, (Shape{2, 32}));
  EXPECT_EQ(weights[3].second.bytes.data(), bytes.data() + static_cast<std::ptrdiff_t>(3 * 2 * 34));
  for (const Shape& shape : {Shape{3, 2, 32}, Shape{2, 32}, Shape{4, 2, 2, 32}}) {
    expect_error(ErrorCode::kCorruptFile, "tensor blk.0.ffn_up_exps.weight: shape", [&] {
      gguf_weights(gguf, "blk.0.ffn_up_exps.weight", "model.layers.0.mlp.experts.*.up_proj.weight",
                   {GgufType::kQ8_0, shape, bytes});
    });
  }
  expect_error(ErrorCode::kCorruptFile, "expected matrices of 4 experts", [&] {
    gguf_weights(gguf, "blk.0.ffn_up_exps.weight", "model.layers.0.mlp.experts.*.up_proj.weight",
                 {GgufType::kQ8_0, {4, 0, 32}, {}});
  });
}

// Types of others, by their names.
TEST(Gguf, TypesThatAreNotReadAreNamed) {
  MappedFile file(test_data("../fuzz/corpus/gguf/kind"));
  std::vector<std::byte> bytes(file.bytes().begin(), file.bytes().end());
  const auto at = std::find(bytes.begin(), bytes.end(), std::byte{77});
  ASSERT_NE(at, bytes.end());
  for (const auto& [type, name] : std::initializer_list<std::pair<int, const char*>>{{16, "IQ2_XXS"},
                                                                                     {17, "IQ2_XS"},
                                                                                     {18, "IQ3_XXS"},
                                                                                     {19, "IQ1_S"},
                                                                                     {21, "IQ3_S"},
                                                                                     {22, "IQ2_S"},
                                                                                     {29, "IQ1_M"},
                                                                                     {34, "TQ1_0"},
                                                                                     {35, "TQ2_0"},
                                                                                     {40, "NVFP4"}}) {
    *at = static_cast<std::byte>(type);
    expect_error(ErrorCode::kUnsupported, fmt::format("tensor t: type {} ({})", name, type),
                 [&] { parse_gguf(bytes, "x"); });
  }
}

TEST(Gguf, MissingKeysAndUnknownArchitecturesAreNamed) {
  Gguf gguf = llama_metadata();
  gguf.values.erase("llama.block_count");
  expect_error(ErrorCode::kNotFound, "llama.block_count", [&] { gguf_config_json(gguf); });
  gguf.values["general.architecture"] = std::string_view("mamba");
  expect_error(ErrorCode::kUnsupported, "mamba is not one we implement; known: llama, qwen2, qwen3, ",
               [&] { gguf_config_json(gguf); });
}

}  // namespace
}  // namespace metal_marlin

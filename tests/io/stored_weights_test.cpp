// Folders in the layouts of other programs, and what their weights are (tools/make_stored_weight_vectors.py).
#include "io/stored_weights.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "backends/registry.h"
#include "formats/small_floats.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

enum class Fate : std::uint8_t { kExact, kRounded, kF16 };  // the same numbers; a scale rounded to f32; decoded

struct StoredKind {
  const char* name;
  const char* stored_as;  // of module a, or the only one that is named so; empty: several
  Fate fate = Fate::kExact;
};

class StoredWeights : public testing::TestWithParam<StoredKind> {
 protected:
  std::string name_ = GetParam().name;
};
INSTANTIATE_TEST_SUITE_P(
    Kinds, StoredWeights,
    testing::Values(
        StoredKind{"mlx-affine-2", "u2"}, StoredKind{"mlx-affine-3", "u3"}, StoredKind{"mlx-affine-4", "u4"},
        StoredKind{"mlx-affine-5", "u5"}, StoredKind{"mlx-affine-6", "u6"}, StoredKind{"mlx-affine-8", "u8"},
        StoredKind{"mlx-mixed", ""}, StoredKind{"mlx-mxfp4", "mxfp4"}, StoredKind{"mlx-nvfp4", "nvfp4"},
        StoredKind{"mlx-mxfp8", "fp8-e4m3"}, StoredKind{"bnb-nf4", "nf4", Fate::kRounded},
        StoredKind{"bnb-nf4-nested", "nf4", Fate::kRounded}, StoredKind{"bnb-fp4", "bitsandbytes fp4", Fate::kF16},
        StoredKind{"bnb-nf4-across-rows", "bitsandbytes nf4", Fate::kF16}, StoredKind{"bnb-int8", "int8"},
        StoredKind{"fp8-blocks", "fp8-e4m3"}, StoredKind{"fp8-blocks-ue8m0", "fp8-e4m3"},
        StoredKind{"fp8-tensor", "fp8-e4m3"}, StoredKind{"ct-fp8-blocks", "fp8-e4m3"}, StoredKind{"ct-int8", "int8"},
        StoredKind{"ct-int8-asymmetric", "u8"}, StoredKind{"ct-int8-tensor", "int8"},
        StoredKind{"ct-int2-packed-asymmetric", "u2"}, StoredKind{"ct-int3-packed-asymmetric", "u3"},
        StoredKind{"ct-int6-packed-asymmetric", "u6"}, StoredKind{"ct-int8-packed-asymmetric", "u8"},
        StoredKind{"ct-int5-packed-asymmetric", "u5"}, StoredKind{"ct-int2-packed", "int2"},
        StoredKind{"ct-int3-packed", "int3"}, StoredKind{"ct-int5-packed", "int5"},
        StoredKind{"ct-int6-packed", "int6"}, StoredKind{"ct-groups-of-256", "s4"}, StoredKind{"ct-mxfp4", "mxfp4"},
        StoredKind{"ct-mxfp8", "fp8-e4m3"}, StoredKind{"gptq-2-asymmetric", "u2"}, StoredKind{"gptq-3", "int3"},
        StoredKind{"gptq-3-asymmetric", "u3"}, StoredKind{"gptq-4-asymmetric", "u4"},
        StoredKind{"gptq-8-asymmetric", "u8"}, StoredKind{"gptq-v2-called-gptq", "s4"}, StoredKind{"gptq-dynamic", ""},
        StoredKind{"gptq-own-config", "s4"}),
    [](const auto& test) {
      std::string name = test.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST_P(StoredWeights, AreWhatTheProgramComputes) {
  ThreadPool pool(1);
  const auto checkpoint = open_checkpoint(test_data("stored") / name_);
  const SafetensorsFile expected(test_data("stored") / (name_ + ".safetensors"));
  ASSERT_EQ(checkpoint->weights().size(), expected.tensors().size());
  for (const auto& [name, view] : expected.tensors()) {
    const WeightInfo& info = checkpoint->require(name, view.shape);
    if (name == "a.weight") {
      EXPECT_EQ(info.stored_as, GetParam().stored_as);
    }
    const auto values = read_tensor<float>(expected, name);
    const Weight weight = checkpoint->load(name, pool);
    EXPECT_EQ(weight.packed(), info.packed.has_value()) << name;
    std::vector<float> row(static_cast<std::size_t>(view.shape[1]));
    for (std::size_t r = 0; r < static_cast<std::size_t>(view.shape[0]); ++r) {
      weight.decode_row(static_cast<std::int64_t>(r), view.shape[1], row.data());
      for (std::size_t c = 0; c < row.size(); ++c) {
        const float value = values[r * row.size() + c];
        const float bound = GetParam().fate == Fate::kExact     ? 0.0F
                            : GetParam().fate == Fate::kRounded ? std::fabs(value) * 2e-6F
                                                                : std::fabs(value - f16_to_f32(f32_to_f16(value)));
        ASSERT_NEAR(row[c], value, bound) << name << " row " << r << " column " << c;
      }
    }
  }
}

// Kernels multiply what other programs' formats became, also by rounded activations.
TEST(StoredWeightsRun, UnsignedCodesOfEveryWidth) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  const auto source = fixture("qwen3-tiny");
  // Rounding to 8 bits leaves at most this share of a block of 32 activations, when one of them is all of it (127 steps
  // of uniform errors); it does not depend on the weights. The products, seven a layer and the head, add up as squares.
  const auto layers = read_json_file(source / "config.json").at("num_hidden_layers").get<double>();
  const double rounded = std::sqrt(32.0) / 127 / std::sqrt(12.0) * std::sqrt(7 * layers + 1);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const auto target = folder.path() / std::to_string(bits);
    std::filesystem::create_directories(target);
    Json config = read_json_file(source / "config.json");
    config["quantization"] = {{"group_size", 32}, {"bits", bits}};
    std::ofstream(target / "config.json") << config.dump();
    const SafetensorsFile model(source / "model.safetensors");
    std::vector<std::pair<TensorPlan, std::vector<std::byte>>> tensors;
    for (const auto& [name, view] : model.tensors()) {
      const bool linear = name.ends_with("_proj.weight");
      if (!linear) {
        tensors.push_back({{name, view.dtype, view.shape}, {view.bytes.begin(), view.bytes.end()}});
        continue;
      }
      const FormatSpec spec{bits == 2   ? Format::kU2
                            : bits == 3 ? Format::kU3
                            : bits == 4 ? Format::kU4
                            : bits == 5 ? Format::kU5
                            : bits == 6 ? Format::kU6
                                        : Format::kU8,
                            32, ScaleType::kF16, ZeroKind::kMinimum};
      const auto read = [&](std::int64_t row, float* out) {
        convert_to_f32(view.dtype, view.bytes, static_cast<std::size_t>(row * view.shape[1]),
                       static_cast<std::size_t>(view.shape[1]), out);
      };
      PackedMatrix matrix = quantize_matrix(spec, view.shape[0], view.shape[1], read, 1, pool);
      const std::string module = name.substr(0, name.rfind('.'));
      const Shape groups{view.shape[0], view.shape[1] / 32};
      tensors.push_back({{name, DType::kU32, {view.shape[0], view.shape[1] * bits / 32}}, matrix.codes});
      tensors.push_back({{module + ".scales", DType::kF16, groups}, matrix.scales});
      tensors.push_back({{module + ".biases", DType::kF16, groups}, matrix.zeros});
    }
    std::vector<TensorPlan> plan;
    for (const auto& [tensor, bytes] : tensors) plan.push_back(tensor);
    SafetensorsWriter writer(target / "model.safetensors", plan);
    for (const auto& [tensor, bytes] : tensors) writer.write(bytes);
    writer.finish();
    write_decoded(target, folder.path() / (std::to_string(bits) + "-decoded"));
    const auto expected = last_logits(folder.path() / (std::to_string(bits) + "-decoded"), true);
    EXPECT_LT(relative_error(last_logits(target, false), expected), rounded) << bits;
    for (const std::string& backend : available_backends())
      EXPECT_LT(relative_error(last_logits(target, true, backend), expected), backend == "cpu" ? 1e-5 : 1e-3)
          << bits << backend;
  }
}

// How bitsandbytes' 4 bits are decoded is said in a tensor, by the tensor's name and by a table: they must agree.
TEST(StoredWeightsErrors, StatesOfBitsandbytesThatContradict) {
  const auto with = [](const std::string& old, const std::string& text) {
    const TemporaryFolder folder;
    const auto target = folder.path() / "m";
    std::filesystem::copy(test_data("stored") / "bnb-nf4", target);
    std::stringstream bytes;
    bytes << std::ifstream(target / "model.safetensors").rdbuf();
    std::string changed = bytes.str();
    ASSERT_EQ(old.size(), text.size());
    const std::size_t at = changed.find(old);
    ASSERT_NE(at, std::string::npos);
    std::ofstream(target / "model.safetensors") << changed.replace(at, old.size(), text);
    ThreadPool pool(1);
    static_cast<void>(open_checkpoint(target)->load("a.weight", pool));
  };
  const std::string type = R"("quant_type": "nf4")";
  EXPECT_NO_THROW(with(type, type));
  expect_error(ErrorCode::kCorruptFile, "field quant_type is 'fp4', and its name is another type's",
               [&] { with(type, R"("quant_type": "fp4")"); });
  expect_error(ErrorCode::kUnsupported, "field quant_type is 'nf5', expected nf4 or fp4",
               [&] { with(type, R"("quant_type": "nf5")"); });
  const float one = 1;
  const float other = 0.5F;
  const auto raw = [](const float& value) { return std::string(reinterpret_cast<const char*>(&value), 4); };
  const float before = 0.7229568362236023F;  // the last levels of its table
  expect_error(ErrorCode::kCorruptFile, "field quant_type is 'nf4', and a.weight.quant_map is another type's",
               [&] { with(raw(before) + raw(one), raw(before) + raw(other)); });
  expect_error(ErrorCode::kUnsupported, "field blocksiz_", [&] { with("\"blocksize\"", "\"blocksiz_\""); });
  expect_error(ErrorCode::kCorruptFile, "field blocksize is 0",
               [&] { with("\"blocksize\": 64", "\"blocksize\":  0"); });
}

TEST(StoredWeightsErrors, NameTheCause) {
  const auto with = [](const char* kind, const std::function<void(Json&)>& change) {
    const TemporaryFolder folder;
    const auto target = folder.path() / "m";
    std::filesystem::copy(test_data("stored") / kind, target);
    Json config = read_json_file(target / "config.json");
    change(config);
    std::ofstream(target / "config.json") << config.dump();
    ThreadPool pool(1);
    static_cast<void>(open_checkpoint(target)->load("a.weight", pool));
  };
  const auto set = [](const char* object, const char* key, const Json& value) {
    return [=](Json& config) { config[object][key] = value; };
  };
  using Code = ErrorCode;
  const char* const q = "quantization_config";
  expect_error(Code::kUnsupported, "field new_thing",
               [&] { with("mlx-affine-4", set("quantization", "new_thing", 1)); });
  expect_error(Code::kCorruptFile, "field mode", [&] { with("mlx-affine-4", set("quantization", "mode", "mxfp2")); });
  expect_error(Code::kCorruptFile, "a.weight", [&] { with("mlx-affine-4", set("quantization", "bits", 5)); });
  expect_error(Code::kUnsupported, "7 bits", [&] { with("mlx-affine-8", set("quantization", "bits", 7)); });
  expect_error(Code::kUnsupported, "field new_thing", [&] { with("bnb-nf4", set(q, "new_thing", 1)); });
  expect_error(Code::kCorruptFile, "weight_block_size", [&] {
    with("fp8-blocks", set(q, "weight_block_size", {16, 0}));
  });
  expect_error(Code::kCorruptFile, "a.weight_scale_inv", [&] {
    with("fp8-blocks", set(q, "weight_block_size", {16, 16}));
  });
  expect_error(Code::kUnsupported, "field new_thing", [&] { with("ct-int8", set(q, "new_thing", 1)); });
  for (const char* const format : {"marlin-24", "sparse-24-bitmask", "", "x"})  // also where groups have their own
    expect_error(Code::kUnsupported, fmt::format("format {} is not one that we read", format),
                 [&] { with("ct-int8", set(q, "format", format)); });
  expect_error(Code::kUnsupported, "hqq", [&] { with("ct-int8", set(q, "quant_method", "hqq")); });
  for (const char* const location : {"output", "q_attn", "k_cache"}) {
    const Json apply = Json::array({{{"targets", {"Linear"}}, {"location", location}}});
    const Json transform = {{"config_groups", {{"R", {{"type", "hadamard"}, {"apply", apply}}}}}};
    expect_error(Code::kUnsupported, std::string("location ") + location,
                 [&] { with("ct-int8", set(q, "transform_config", transform)); });
  }
  // What is packed and is said not to be; names of the same that differ.
  const Json names = {"b", "a"};
  const auto left_out = [&](const char* kind, const char* object, const char* key, const Json& value) {
    expect_error(Code::kCorruptFile, fmt::format("field {} says that a is not quantized", key),
                 [&] { with(kind, set(object, key, value)); });
  };
  left_out("fp8-blocks", q, "modules_to_not_convert", names);
  left_out("fp8-blocks", q, "ignored_layers", names);
  for (const char* const type : {"e4m3", "float8_e4m3fn"}) EXPECT_NO_THROW(with("fp8-blocks", set(q, "fmt", type)));
  expect_error(Code::kCorruptFile, "field fmt is \"e5m2\", expected e4m3 or float8_e4m3fn",
               [&] { with("fp8-blocks", set(q, "fmt", "e5m2")); });
  left_out("bnb-int8", q, "llm_int8_skip_modules", names);
  left_out("bnb-nf4", q, "llm_int8_skip_modules", {"[ab]"});
  left_out("ct-int8", q, "ignore", names);
  left_out("ct-int6-packed", q, "ignore", {"re:a.*"});
  left_out("mlx-affine-4", "quantization", "a", false);
  left_out("fp8-blocks", q, "modules_to_convert", {"b"});
  for (const Json& others : {Json{"b"}, Json{"a_proj"}, Json{"x.a"}, Json{"aa"}})
    EXPECT_NO_THROW(with("bnb-int8", set(q, "llm_int8_skip_modules", others))) << others;
  EXPECT_NO_THROW(with("mlx-affine-4", set("quantization", "a", true)));
  expect_error(Code::kCorruptFile, "field q_group_size is 64, expected 32, as group_size has it",
               [&] { with("gptq-4-asymmetric", set(q, "q_group_size", 64)); });
  expect_error(Code::kCorruptFile, "field w_bit is 8, expected 4, as bits has it",
               [&] { with("gptq-4-asymmetric", set(q, "w_bit", 8)); });
  expect_error(Code::kCorruptFile, "field zero_point is false, expected the opposite of sym",
               [&] { with("gptq-4-asymmetric", set(q, "zero_point", false)); });
  expect_error(Code::kCorruptFile, "field format is \"gptq\", expected \"gptq_v2\", as checkpoint_format has it", [&] {
    with("gptq-4-asymmetric", [q](Json& config) {
      config[q]["format"] = "gptq";
      config[q]["checkpoint_format"] = "gptq_v2";
    });
  });
  EXPECT_NO_THROW(with("gptq-4-asymmetric", set(q, "zero_point", true)));
  expect_error(Code::kCorruptFile, "a.weight_scale_inv: found F32 [3, 3], expected F32, BF16, F16 or F8_E8M0 [1, 1]",
               [&] { with("fp8-blocks", set(q, "weight_block_size", nullptr)); });
  const auto order = [q](const Json& value) {
    return [=](Json& config) { config[q]["config_groups"]["group_0"]["weights"]["actorder"] = value; };
  };
  for (const Json& known : {Json("group"), Json("dynamic"), Json("weight"), Json("static"), Json(true), Json(nullptr)})
    EXPECT_NO_THROW(with("ct-int6-packed", order(known))) << known;
  expect_error(Code::kCorruptFile, "field actorder is \"rows\"", [&] { with("ct-int6-packed", order("rows")); });
  const Json apply = Json::array({{{"targets", {"Linear"}}, {"location", "input"}}});
  for (const char* const type : {"random-hadamard", "random-matrix"}) {
    const Json transform = {{"config_groups", {{"R", {{"type", type}, {"apply", apply}}}}}};
    expect_error(Code::kUnsupported, std::string("type ") + type,
                 [&] { with("ct-int8", set(q, "transform_config", transform)); });
  }
}

// The tensors of a kind of folder, changed.
void open_changed(const char* kind, const std::function<void(Json&)>& change_config,
                  const std::function<void(std::map<std::string, DenseView>&)>& change) {
  const TemporaryFolder folder;
  const auto source = test_data("stored") / kind;
  Json config = read_json_file(source / "config.json");
  change_config(config);
  std::ofstream(folder.path() / "config.json") << config.dump();
  const SafetensorsFile file(source / "model.safetensors");
  std::map<std::string, DenseView> tensors = file.tensors();
  change(tensors);
  std::vector<TensorPlan> plan;
  for (const auto& [name, view] : tensors) plan.push_back({name, view.dtype, view.shape});
  SafetensorsWriter writer(folder.path() / "model.safetensors", plan);
  for (const auto& [name, view] : tensors) writer.write(view.bytes);
  writer.finish();
  ThreadPool pool(1);
  static_cast<void>(open_checkpoint(folder.path())->load("a.weight", pool));
}

// What the configuration says of the codes and what lies beside them must agree.
TEST(StoredWeightsErrors, TensorsThatContradictTheConfiguration) {
  const auto nothing = [](auto&) {};
  const auto format = [](const char* value) {
    return [=](Json& config) {
      config["quantization_config"]["format"] = value;
      for (Json& group : config["quantization_config"]["config_groups"]) group.erase("format");
    };
  };
  for (const char* const other : {"int-quantized", "float-quantized", "dense"})
    expect_error(ErrorCode::kCorruptFile,
                 fmt::format("field format is {}, whose codes are not in a.weight_packed of ", other),
                 [&] { open_changed("ct-int6-packed", format(other), nothing); });
  for (const char* const other : {"pack-quantized", "nvfp4-pack-quantized", "dense"})
    expect_error(ErrorCode::kCorruptFile, fmt::format("field format is {}, whose codes are not in a.weight of ", other),
                 [&] { open_changed("ct-int8", format(other), nothing); });
  for (const char* const same : {"pack-quantized", "mixed-precision"})
    EXPECT_NO_THROW(open_changed("ct-int6-packed", format(same), nothing)) << same;
  for (const char* const same : {"int-quantized", "naive-quantized"})
    EXPECT_NO_THROW(open_changed("ct-int8", format(same), nothing)) << same;

  const std::vector<float> one{1};
  const auto add_global = [&](auto& tensors) {
    tensors["a.weight_global_scale"] = {DType::kF32, {1}, std::as_bytes(std::span(one))};
  };
  for (const char* const kind : {"ct-int8", "ct-int6-packed", "ct-fp8-blocks", "ct-mxfp4"})
    expect_error(ErrorCode::kCorruptFile, "tensor a.weight_global_scale: found F32 [1], expected none",
                 [&] { open_changed(kind, nothing, add_global); });

  std::vector<std::int8_t> zeros(64);
  std::vector<std::uint32_t> middles(64, 0x88888888U);
  const auto add = [](DType dtype, const auto& values) {
    return [&, dtype](auto& tensors) {
      tensors["a.weight_zero_point"] = {dtype, {64}, std::as_bytes(std::span(values))};
    };
  };
  for (const char* const kind : {"ct-int8", "ct-fp8-blocks", "ct-mxfp8"})
    EXPECT_NO_THROW(open_changed(kind, nothing, add(DType::kI8, zeros))) << kind;
  EXPECT_NO_THROW(open_changed("ct-groups-of-256", nothing, add(DType::kI32, middles)));  // s4
  zeros[63] = 1;
  middles[63] = 0x88887888U;
  for (const char* const kind : {"ct-int8", "ct-fp8-blocks", "ct-mxfp8"})
    expect_error(ErrorCode::kCorruptFile, "tensor a.weight_zero_point: zeros that are not 0",
                 [&] { open_changed(kind, nothing, add(DType::kI8, zeros)); });
  expect_error(ErrorCode::kCorruptFile, "tensor a.weight_zero_point: zeros that are not 0",
               [&] { open_changed("ct-groups-of-256", nothing, add(DType::kI32, middles)); });
}

// Messages tell shapes, and the file.
TEST(StoredWeightsErrors, SizesAreShapes) {
  const auto nothing = [](auto&) {};
  const auto cut = [](const char* name) {
    return [=](auto& tensors) {
      DenseView& view = tensors.at(name);
      view.bytes = view.bytes.subspan(0, view.bytes.size() / 2);
      view.shape[0] /= 2;
    };
  };
  for (const char* const kind : {"ct-int8", "ct-int6-packed", "ct-mxfp4"})
    expect_error(ErrorCode::kCorruptFile, "model.safetensors: tensor a.weight_scale: found ",
                 [&] { open_changed(kind, nothing, cut("a.weight_scale")); });
  const std::vector<std::uint8_t> infinite(4096, 0xFF);
  expect_error(ErrorCode::kCorruptFile, "model.safetensors: tensor a.weight: the scale of row 0, group 0 is not finite",
               [&] {
                 open_changed("ct-int8", nothing, [&](auto& tensors) {
                   DenseView& view = tensors.at("a.weight_scale");
                   view.bytes = std::as_bytes(std::span(infinite)).subspan(0, view.bytes.size());
                 });
               });
}

TEST(StoredWeightsErrors, RulesOfGptqAreAnObject) {
  const auto nothing = [](auto&) {};
  const auto dynamic = [](const char* json) {
    return [=](Json& config) { config["quantization_config"]["dynamic"] = Json::parse(json); };
  };
  for (const char* const wrong : {"[]", "[{}]", "\"-:a\"", "1"})
    expect_error(ErrorCode::kCorruptFile, "config.json: quantization_config: field dynamic is ",
                 [&] { open_changed("gptq-4-asymmetric", dynamic(wrong), nothing); });
  for (const char* const right : {"null", "{}", R"({"-:b": {}, "+:a": {"bits": 4}})"})
    EXPECT_NO_THROW(open_changed("gptq-4-asymmetric", dynamic(right), nothing)) << right;
  // Those that leave modules out go first, wherever they stand.
  expect_error(ErrorCode::kNotFound, "tensor a.weight is missing",
               [&] { open_changed("gptq-4-asymmetric", dynamic(R"({"+:a": {"bits": 4}, "-:a": {}})"), nothing); });
}

}  // namespace
}  // namespace metal_marlin

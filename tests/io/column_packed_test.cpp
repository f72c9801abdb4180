// GPTQ and AWQ checkpoints, written here as their packages document them: matrices and whole models.
#include "io/column_packed.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "formats/small_floats.h"
#include "metal_marlin/error.h"
#include "metal_marlin/quantize.h"
#include "quantize/quantized_models.h"

namespace metal_marlin {
namespace {

enum class Form { kGptq, kGptqV2, kAwq };

// A matrix as such a checkpoint has it: weight = scale * (code - zero).
struct Matrix {
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t group;
  std::vector<int> codes;             // [rows][cols]
  std::vector<int> zeros;             // [rows][groups]
  std::vector<std::uint16_t> scales;  // f16 [rows][groups]
  [[nodiscard]] std::int64_t groups() const { return (cols + group - 1) / group; }
  [[nodiscard]] float weight(std::int64_t row, std::int64_t col) const {
    const auto g = static_cast<std::size_t>(row * groups() + col / group);
    return f16_to_f32(scales[g]) * static_cast<float>(codes[static_cast<std::size_t>(row * cols + col)] - zeros[g]);
  }
};

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::int64_t group, int bits, bool symmetric) {
  std::mt19937 random(5);
  Matrix m{rows, cols, group, {}, {}, {}};
  for (std::int64_t i = 0; i < rows * cols; ++i) m.codes.push_back(static_cast<int>(random() % (1U << bits)));
  for (std::int64_t i = 0; i < rows * m.groups(); ++i) {
    m.zeros.push_back(symmetric ? 1 << (bits - 1) : 1 + static_cast<int>(random() % ((1U << bits) - 1)));
    m.scales.push_back(f32_to_f16(0.01F + 0.001F * static_cast<float>(random() % 50)));
  }
  return m;
}

using Tensors = std::vector<std::pair<TensorPlan, std::vector<std::byte>>>;

template <typename T>
void add(Tensors& out, const std::string& name, DType dtype, const Shape& shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  out.push_back({{name, dtype, shape}, {bytes.begin(), bytes.end()}});
}

// Python's numbers in words, turned round, as in AutoGPTQ's pack() and AutoAWQ's: `awq` lays eight outputs
// beside one another in the order 0 2 4 6 1 3 5 7.
void pack(Tensors& out, const std::string& module, const Matrix& m, int bits, Form scheme) {
  const std::int64_t per_word = 32 / bits;
  const bool awq = scheme == Form::kAwq;
  const std::int64_t across = (m.rows + per_word - 1) / per_word;
  static constexpr int kOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(awq ? m.cols * across : m.cols / per_word * m.rows));
  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(m.groups() * across));
  std::vector<std::uint16_t> scales;
  const auto put = [&](std::vector<std::uint32_t>& words, std::int64_t at, std::int64_t place, int value) {
    words[static_cast<std::size_t>(at)] |= static_cast<std::uint32_t>(value) << (bits * place);
  };
  for (std::int64_t col = 0; col < m.cols; ++col) {
    for (std::int64_t row = 0; row < m.rows; ++row) {
      const int code = m.codes[static_cast<std::size_t>(row * m.cols + col)];
      if (!awq) put(qweight, col / per_word * m.rows + row, col % per_word, code);
    }
    for (std::int64_t word = 0; awq && word < across; ++word) {
      for (std::int64_t i = 0; i < 8; ++i)
        put(qweight, col * across + word, i, m.codes[static_cast<std::size_t>((word * 8 + kOrder[i]) * m.cols + col)]);
    }
  }
  for (std::int64_t g = 0; g < m.groups(); ++g) {
    for (std::int64_t row = 0; row < m.rows; ++row)
      scales.push_back(m.scales[static_cast<std::size_t>(row * m.groups() + g)]);
    for (std::int64_t word = 0; word < across; ++word) {
      for (std::int64_t i = 0; i < per_word; ++i) {
        const std::int64_t row = word * per_word + (awq ? kOrder[i] : i);
        if (row >= m.rows) continue;
        const int zero = m.zeros[static_cast<std::size_t>(row * m.groups() + g)];
        put(qzeros, g * across + word, i, scheme == Form::kGptq ? zero - 1 : zero);
      }
    }
  }
  if (awq) {
    add(out, module + ".qweight", DType::kI32, {m.cols, across}, qweight);
  } else {
    add(out, module + ".qweight", DType::kI32, {m.cols / per_word, m.rows}, qweight);
    std::vector<std::int32_t> order;
    for (std::int64_t col = 0; col < m.cols; ++col) order.push_back(static_cast<std::int32_t>(col / m.group));
    add(out, module + ".g_idx", DType::kI32, {m.cols}, order);
  }
  add(out, module + ".qzeros", DType::kI32, {m.groups(), across}, qzeros);
  add(out, module + ".scales", DType::kF16, {m.groups(), m.rows}, scales);
}

void write(const std::filesystem::path& folder, const Json& config, Tensors tensors) {
  std::filesystem::create_directories(folder);
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.first.name < b.first.name; });
  std::vector<TensorPlan> plan;
  for (const auto& [tensor, bytes] : tensors) plan.push_back(tensor);
  SafetensorsWriter writer(folder / "model.safetensors", plan);
  for (const auto& [tensor, bytes] : tensors) writer.write(bytes);
  writer.finish();
  std::ofstream(folder / "config.json") << config.dump();
}

Json config_of(Form scheme, int bits, std::int64_t group, bool symmetric) {
  if (scheme == Form::kAwq) {
    return {{"quant_method", "awq"},
            {"bits", bits},
            {"group_size", group},
            {"zero_point", !symmetric},
            {"version", "gemm"}};
  }
  Json config = {
      {"quant_method", "gptq"}, {"bits", bits}, {"group_size", group}, {"sym", symmetric}, {"desc_act", false}};
  if (scheme == Form::kGptqV2) config["checkpoint_format"] = "gptq_v2";
  return config;
}

TEST(ColumnPacked, EveryWeight) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  int n = 0;
  for (const Form scheme : {Form::kGptq, Form::kGptqV2, Form::kAwq}) {
    for (const int bits : {4, 8, 2}) {
      for (const bool symmetric : {true, false}) {
        if (bits != 4 && (!symmetric || scheme == Form::kAwq)) continue;
        for (const std::int64_t group : {std::int64_t{32}, std::int64_t{-1}}) {
          const std::int64_t cols = 96;
          const Matrix m = random_matrix(40, cols, group == -1 ? cols : group, bits, symmetric);
          Tensors tensors;
          pack(tensors, "a.b", m, bits, scheme);
          const auto path = folder.path() / std::to_string(n++);
          write(path, {{"quantization_config", config_of(scheme, bits, group, symmetric)}}, tensors);
          const auto checkpoint = open_checkpoint(path);
          ASSERT_EQ(checkpoint->weights().size(), 1U);
          const WeightInfo& info = checkpoint->weights()[0];
          EXPECT_EQ(info.name, "a.b.weight");
          EXPECT_EQ(info.shape, (Shape{40, cols}));
          const Weight weight = checkpoint->load("a.b.weight", pool);
          std::vector<float> row(static_cast<std::size_t>(cols));
          for (std::int64_t r = 0; r < 40; ++r) {
            weight.decode_row(r, cols, row.data());
            for (std::int64_t c = 0; c < cols; ++c)
              ASSERT_EQ(row[static_cast<std::size_t>(c)], m.weight(r, c)) << n << " row " << r << " column " << c;
          }
        }
      }
    }
  }
}

// Inputs in groups by activation order, as desc_act makes them: the same numbers, rounded to f16.
TEST(ColumnPacked, ActivationOrder) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  for (const Form scheme : {Form::kGptq, Form::kGptqV2}) {
    const Matrix m = random_matrix(24, 96, 32, 4, false);
    Tensors tensors;
    pack(tensors, "a.b", m, 4, scheme);
    std::vector<std::int32_t> groups;
    for (std::int32_t i = 0; i < 96; ++i) groups.push_back(i / 32);
    std::mt19937 random(7);
    std::shuffle(groups.begin(), groups.end(), random);
    for (auto& [plan, bytes] : tensors) {
      const auto order = std::as_bytes(std::span(groups));
      if (plan.name == "a.b.g_idx") bytes.assign(order.begin(), order.end());
    }
    const std::vector<float> bias(24, 0.5F);
    add(tensors, "a.b.bias", DType::kF32, {24}, bias);
    const auto path = folder.path() / std::to_string(static_cast<int>(scheme));
    write(path, {{"quantization_config", config_of(scheme, 4, 32, false)}}, tensors);
    std::string notice;
    CheckpointOptions options;
    options.notice = [&](const std::string& text) { notice = text; };
    const auto checkpoint = open_checkpoint(path, options);
    EXPECT_NE(notice.find("1 tensors stored as u4 by activation order become f16"), std::string::npos);
    ASSERT_EQ(checkpoint->weights().size(), 2U);
    EXPECT_EQ(checkpoint->find("a.b.weight")->stored_as, "u4 by activation order");
    std::vector<float> found_bias(24);
    checkpoint->load("a.b.bias", pool).decode_row(0, 24, found_bias.data());
    EXPECT_EQ(found_bias, bias);
    const Weight weight = checkpoint->load("a.b.weight", pool);
    std::vector<float> row(96);
    for (std::int64_t r = 0; r < m.rows; ++r) {
      weight.decode_row(r, 96, row.data());
      for (std::size_t c = 0; c < 96; ++c) {
        const auto g = static_cast<std::size_t>(r * 3 + groups[c]);
        const int code = m.codes[static_cast<std::size_t>(r) * 96 + c];
        const float expected = f16_to_f32(m.scales[g]) * static_cast<float>(code - m.zeros[g]);
        ASSERT_EQ(row[c], f16_to_f32(f32_to_f16(expected))) << "row " << r << " column " << c;
      }
    }
  }
}

// A model of ours in u4 with integer zeros, written as theirs, runs the same.
TEST(ColumnPacked, WholeModels) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  QuantizeOptions options;
  options.spec = {Format::kU4, 32, ScaleType::kF16, ZeroKind::kInteger};
  options.embedding.reset();
  quantize(fixture("qwen3-tiny"), folder.path() / "ours", options);
  const auto ours = open_checkpoint(folder.path() / "ours");
  const std::vector<float> expected = last_logits(folder.path() / "ours", true);
  for (const Form scheme : {Form::kGptq, Form::kGptqV2, Form::kAwq}) {
    Tensors tensors;
    for (const WeightInfo& info : ours->weights()) {
      const Weight weight = ours->load(info.name, pool);
      if (!info.packed) {
        const DenseView& view = std::get<DenseView>(weight.view);
        tensors.push_back({{info.name, info.dtype, info.shape}, {view.bytes.begin(), view.bytes.end()}});
        continue;
      }
      const PackedView& view = std::get<PackedView>(weight.view);
      Matrix m{view.rows, view.cols, 32, {}, {}, {}};
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(m.cols));
      for (std::int64_t row = 0; row < m.rows; ++row) {
        view.unpack_row(row, codes.data());
        m.codes.insert(m.codes.end(), codes.begin(), codes.end());
        for (std::int64_t g = 0; g < m.groups(); ++g) {
          m.zeros.push_back(std::max(view.zero(row, g), scheme == Form::kGptq ? 1 : 0));
          m.scales.push_back(f32_to_f16(view.scale(row, g)));
        }
      }
      pack(tensors, info.name.substr(0, info.name.rfind('.')), m, 4, scheme);
    }
    Json config = ours->config();
    config["quantization_config"] = config_of(scheme, 4, 32, false);
    const auto path = folder.path() / std::to_string(static_cast<int>(scheme));
    write(path, config, tensors);
    // A zero of 0, which the first form of GPTQ's files cannot hold, became 1 there.
    EXPECT_LT(relative_error(last_logits(path, true), expected), scheme == Form::kGptq ? 0.1 : 1e-9);
  }
}

TEST(ColumnPacked, RefusesWhatItCannotRead) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  int n = 0;
  const auto opened = [&](const Json& config, const Tensors& tensors) {
    const auto path = folder.path() / std::to_string(n++);
    write(path, {{"quantization_config", config}}, tensors);
    static_cast<void>(open_checkpoint(path)->load("a.b.weight", pool));
  };
  const Matrix m = random_matrix(16, 64, 32, 4, false);
  Tensors good;
  pack(good, "a.b", m, 4, Form::kGptqV2);
  const Json config = config_of(Form::kGptqV2, 4, 32, false);
  EXPECT_NO_THROW(opened(config, good));
  const auto index = [&](const char* name) {
    for (std::size_t i = 0; i < good.size(); ++i)
      if (good[i].first.name == std::string("a.b") + name) return i;
    return good.size();
  };
  Tensors awq;
  pack(awq, "a.b", m, 4, Form::kAwq);
  const auto awq_with = [&](const char* key, const Json& value) {
    Json changed = config_of(Form::kAwq, 4, 32, false);
    changed[key] = value;
    opened(changed, awq);
  };
  EXPECT_NO_THROW(awq_with("q_group_size", 32));
  EXPECT_NO_THROW(awq_with("modules_to_not_convert", {"b.c", "gate", "a.bc"}));
  for (const char* const form : {"gemv", "gemv_fast", "marlin", "ipex", "exllama"})
    expect_error(ErrorCode::kCorruptFile, "field version", [&] { awq_with("version", form); });
  expect_error(ErrorCode::kCorruptFile, "field q_group_size is 64, expected 32, as group_size has it",
               [&] { awq_with("q_group_size", 64); });
  expect_error(ErrorCode::kCorruptFile, "field zero_point is true, expected the opposite of sym",
               [&] { awq_with("sym", true); });
  for (const char* const name : {"a", "a.b", "b", "a.*"})
    expect_error(ErrorCode::kCorruptFile, "field modules_to_not_convert says that a.b is not quantized",
                 [&] { awq_with("modules_to_not_convert", {name}); });
  Tensors head;
  pack(head, "lm_head", m, 4, Form::kGptqV2);
  pack(head, "a.b", m, 4, Form::kGptqV2);
  for (const Json& listed : {Json{"a.b"}, Json{{"b", "c"}, {"d"}}, Json::array(), Json()}) {
    Json lists = config;
    lists["modules_in_block_to_quantize"] = listed;
    EXPECT_NO_THROW(opened(lists, head)) << listed;
  }
  for (const Json& listed : {Json{"c"}, Json{{"self_attn.q_proj"}, {"d"}}}) {
    Json lists = config;
    lists["modules_in_block_to_quantize"] = listed;
    expect_error(ErrorCode::kCorruptFile, "field modules_in_block_to_quantize says that a.b is not quantized",
                 [&] { opened(lists, head); });
  }
  Json with_head = config;
  with_head["lm_head"] = true;
  EXPECT_NO_THROW(opened(with_head, head));
  with_head["lm_head"] = false;
  EXPECT_NO_THROW(opened(with_head, good));
  expect_error(ErrorCode::kCorruptFile, "field lm_head says that lm_head is not quantized",
               [&] { opened(with_head, head); });
  expect_error(ErrorCode::kCorruptFile, "field bits is 5, expected 2, 3, 4 or 8",
               [&] { opened(config_of(Form::kGptq, 5, 32, true), good); });
  Json unknown = config;
  unknown["rotation"] = "hadamard";
  expect_error(ErrorCode::kUnsupported, "field rotation is not one that we know", [&] { opened(unknown, good); });
  expect_error(ErrorCode::kCorruptFile, "group_size", [&] { opened(config_of(Form::kGptq, 4, 0, true), good); });
  Json marlin = config;
  marlin["checkpoint_format"] = "marlin";
  expect_error(ErrorCode::kCorruptFile, "checkpoint_format", [&] { opened(marlin, good); });
  marlin["checkpoint_format"] = "gemm";  // AWQ's
  expect_error(ErrorCode::kCorruptFile, "checkpoint_format", [&] { opened(marlin, good); });
  expect_error(ErrorCode::kCorruptFile, "a.b.qzeros: the zero of output 0, group 0",
               [&] { opened(config_of(Form::kGptqV2, 4, 32, true), good); });
  Tensors bad = good;
  bad[index(".g_idx")].second[4 * 40] = std::byte{2};
  expect_error(ErrorCode::kCorruptFile, "a.b.g_idx: input 40 is in group 2, expected one of 2",
               [&] { opened(config, bad); });
  bad = good;
  bad[index(".g_idx")].first = {"a.b.g_idx", DType::kI32, {32}};
  bad[index(".g_idx")].second.resize(128);
  expect_error(ErrorCode::kCorruptFile, "a.b.g_idx: found I32 [32], expected I32 [64]", [&] { opened(config, bad); });
  bad = good;
  bad.erase(bad.begin() + static_cast<std::ptrdiff_t>(index(".scales")));
  expect_error(ErrorCode::kNotFound, "a.b.scales is missing", [&] { opened(config, bad); });
  bad = good;
  bad[index(".qzeros")].first.shape = {4, 1};
  expect_error(ErrorCode::kCorruptFile, "a.b.qzeros: found I32 [4, 1], expected I32 [2, 2]",
               [&] { opened(config, bad); });
  bad = good;
  bad[index(".qweight")].first.dtype = DType::kF32;
  expect_error(ErrorCode::kCorruptFile, "a.b.qweight: found F32", [&] { opened(config, bad); });
}

}  // namespace
}  // namespace metal_marlin

// Fixtures, their quantized folders, and what both compute.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "backends/registry.h"
#include "base/thread_pool.h"
#include "formats/hadamard.h"
#include "io/checkpoint.h"
#include "metal_marlin/model.h"
#include "metal_marlin/quantize.h"
#include "test_data.h"

namespace metal_marlin {

inline std::filesystem::path fixture(const char* name) {
  return test_data("fixtures") / name;
}

// A copy of a fixture with a tokenizer: one token a printable character.
inline void copy_with_tokenizer(const std::filesystem::path& source, const std::filesystem::path& target) {
  std::filesystem::copy(source, target);
  Json vocabulary = Json::object();
  for (char c = '!'; c <= '~'; ++c) vocabulary[std::string(1, c)] = static_cast<int>(vocabulary.size());
  vocabulary["\u0120"] = static_cast<int>(vocabulary.size());  // the space
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json tokenizer = {{"added_tokens", Json::array()},
                          {"pre_tokenizer", byte_level},
                          {"decoder", byte_level},
                          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  std::ofstream(target / "tokenizer.json") << tokenizer.dump();
}

// What a weight is stored as; "none": it is not there.
inline std::string format_in(const QuantizeReport& report, const std::string& weight) {
  for (const QuantizedTensor& tensor : report.tensors) {
    if (tensor.name == weight) return tensor.format;
  }
  return "none";
}

inline std::vector<float> last_logits(const std::filesystem::path& path, bool exact, const std::string& backend = "cpu",
                                      const std::vector<TokenId>& ids = {5, 17, 200, 3, 99, 42, 8, 150, 77, 31}) {
  LoadOptions load;
  load.backend = backend;
  load.exact = exact;
  load.threads = 2;
  Session session(Model::load(path, load), {1, 64, 64, 1});
  std::vector<float> out;
  session.step(std::array{SequenceInput{session.open(), ids}}, [&](std::span<const LogitsRow> rows) {
    out.assign(rows.back().values.begin(), rows.back().values.end());
  });
  return out;
}

inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / size);
}

using Factor = std::function<float(const std::string& weight)>;

// The model in f32, each weight times a factor.
inline void write_decoded(const std::filesystem::path& source, const std::filesystem::path& target,
                          const Factor& factor = {}) {
  std::filesystem::create_directories(target);
  ThreadPool pool(1);
  const auto checkpoint = open_checkpoint(source);
  Json config = checkpoint->config();
  config.erase("quantization_config");
  std::ofstream(target / "config.json") << config.dump();
  std::vector<TensorPlan> plan;
  for (const WeightInfo& info : checkpoint->weights()) plan.push_back({info.name, DType::kF32, info.shape});
  SafetensorsWriter writer(target / "model.safetensors", plan);
  for (const WeightInfo& info : checkpoint->weights()) {
    const Weight weight = checkpoint->load(info.name, pool);
    const std::int64_t cols = info.shape.back();
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t r = 0; r < *element_count(info.shape) / cols; ++r) {
      weight.decode_row(r, cols, row.data());
      if (info.packed && info.packed->rotation != 0) rotate_blocks(row.data(), cols, info.packed->rotation);
      for (float& x : row) x *= factor ? factor(info.name) : 1.0F;
      writer.write(std::as_bytes(std::span(row)));
    }
  }
  writer.finish();
}

// Whether a quantized folder runs, on every backend, as the same model with its weights decoded to f32 by the
// formats' own code, which is written to `decoded`.
inline void expect_runs_as_decoded(const std::filesystem::path& model, const std::filesystem::path& decoded) {
  write_decoded(model, decoded);
  const std::vector<float> expected = last_logits(decoded, true);
  for (const std::string& backend : available_backends()) {
    // Both are f32 sums of the same terms in another order.
    EXPECT_LT(relative_error(last_logits(model, true, backend), expected), 5e-6) << model << backend;
    // The CPU's 8-bit activations add about half a percent at each of a dozen layers; the devices' 16-bit ones 2^-11
    // at each, and of the cache.
    EXPECT_LT(relative_error(last_logits(model, false, backend), expected), backend == "cpu" ? 0.05 : 0x1p-7)
        << model << backend;
  }
}

}  // namespace metal_marlin

// The golden models (tools/make_model_fixtures.py), and their logits as a session gives them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "metal_marlin/model.h"
#include "test_data.h"

namespace metal_marlin {

// The exact mode's bound at every position; the golden values themselves agree
// with a double-precision forward pass to 5e-6. The msl backends add up in other orders.
inline double tolerance(const std::string& backend) {
  return backend == "cpu" ? 3e-5 : 1e-4;
}

inline std::vector<std::string> golden_models(const std::string& set = "fixtures") {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(test_data(set)))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Those that the host executor, whose steps take long, is held to at every turn.
inline bool is_run_in_full(const std::string& model) {
  constexpr std::array<std::string_view, 9> kAll{"glm4-groups",       "glm4-moe-lite-tiny", "llama-bias-linear",
                                                 "llama-old-sharded", "llama-tiny",         "llama-yarn",
                                                 "qwen3-moe",         "qwen3-tiny",         "qwen3-window"};
  return std::find(kAll.begin(), kAll.end(), model) != kAll.end();
}

struct Golden {
  explicit Golden(const std::string& name, const std::string& set = "fixtures")
      : folder(test_data(set) / name), file(folder / "golden.safetensors") {
    for (const std::int64_t id : read_tensor<std::int64_t>(file, "input_ids")) ids.push_back(static_cast<TokenId>(id));
    for (const std::int64_t id : read_tensor<std::int64_t>(file, "greedy")) greedy.push_back(static_cast<TokenId>(id));
    logits = read_tensor<float>(file, "logits");
  }
  std::filesystem::path folder;
  SafetensorsFile file;
  std::vector<TokenId> ids;
  std::vector<TokenId> greedy;
  std::vector<float> logits;
};

inline LoadOptions exact(const std::string& backend = "cpu") {
  LoadOptions options;
  options.exact = true;
  options.threads = 2;
  options.backend = backend;
  return options;
}

// Logits at every position, the input given in chunks of `chunk`.
inline std::vector<float> logits_in_chunks(const std::shared_ptr<const Model>& model, std::span<const TokenId> ids,
                                           std::size_t chunk, int batch = 512) {
  SessionOptions options;
  options.cache_tokens = static_cast<std::int64_t>(ids.size());
  options.batch_tokens = batch;
  options.batch_logits = 11;
  Session session(model, options);
  const SequenceId sequence = session.open();
  std::vector<float> out;
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    const auto part = ids.subspan(begin, std::min(chunk, ids.size() - begin));
    session.step(std::array{SequenceInput{sequence, part, 0}}, [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows) out.insert(out.end(), row.values.begin(), row.values.end());
    });
  }
  return out;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= largest)) largest = std::fabs(static_cast<double>(a[i]) - b[i]);
  }
  return largest;
}

}  // namespace metal_marlin

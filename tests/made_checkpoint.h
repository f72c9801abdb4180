// A checkpoint that lies in no file.
#pragma once

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/checkpoint.h"

namespace metal_marlin {

class MadeCheckpoint final : public Checkpoint {
 public:
  // Called whenever a weight is asked for.
  using Make = std::function<Weight(const WeightInfo&)>;
  MadeCheckpoint(std::vector<WeightInfo> weights, Make make, Json config = nullptr)
      : config_(std::move(config)), weights_(std::move(weights)), make_(std::move(make)) {
    std::sort(weights_.begin(), weights_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  }
  [[nodiscard]] const Json& config() const override { return config_; }
  [[nodiscard]] const Json& generation_config() const override { return nothing_; }
  [[nodiscard]] std::string where() const override { return "made"; }
  [[nodiscard]] std::string where(const std::string& name) const override { return "made " + name; }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override { return {}; }
  [[nodiscard]] std::string kind() const override { return "made"; }

 private:
  [[nodiscard]] Weight read(const std::string& name, ThreadPool&) const override { return make_(*find(name)); }

  Json config_;
  Json nothing_;
  std::vector<WeightInfo> weights_;
  Make make_;
};

}  // namespace metal_marlin

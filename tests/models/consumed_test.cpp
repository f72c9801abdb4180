#include "models/consumed.h"

#include <gtest/gtest.h>

#include "made_checkpoint.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

MadeCheckpoint named(const std::vector<std::string>& names) {
  std::vector<WeightInfo> weights;
  for (const std::string& name : names) weights.push_back({name, {8}, DType::kF32, std::nullopt, 0, ""});
  return {std::move(weights), {}};
}

Plan one_linear() {
  Plan plan;
  plan.add_buffer("x", 8);
  plan.add_buffer("y", 8);
  plan.ops = {LinearOp{0, 1, "layers.0.up.weight", ""}};
  return plan;
}

TEST(Consumed, WhatBelongsToAModulesWeightMustBeUsed) {
  for (const char* const extra : {"layers.0.up.bias", "layers.0.up.lora.a.weight", "layers.0.up.weight_scale"}) {
    expect_error(ErrorCode::kUnsupported, std::string("made ") + extra + ": tensor " + extra, [&] {
      require_consumed(named({"layers.0.up.weight", extra}), one_linear());
    });
  }
}

TEST(Consumed, OtherModulesAndScalesOfActivationsMayBeThere) {
  require_consumed(named({"layers.0.up.weight", "layers.1.up.weight", "layers.0.upper.bias", "up.bias", "bias",
                          "layers.0.up.input_scale", "layers.0.up.k_scale", "layers.0.up.input_zero_point"}),
                   one_linear());
}

TEST(Consumed, OfALayerWhatHasNoPlaceIsTold) {
  Plan plan = one_linear();
  std::get<LinearOp>(plan.ops.front().body).weight = "model.layers.0.up.weight";
  std::string notice;
  require_consumed(named({"model.layers.0.up.weight", "model.layers.0.q_norm.weight", "model.layers.7.up.weight"}),
                   plan, [&](const std::string& text) { notice = text; });
  EXPECT_EQ(notice,
            "made model.layers.0.q_norm.weight: 1 tensor of its layers that the architecture has no place for, such as "
            "model.layers.0.q_norm.weight, are left out");
  notice.clear();
  require_consumed(
      named({"model.layers.0.up.weight", "model.layers.7.up.weight", "model.layers.0.rotary_emb.inv_freq"}), plan,
      [&](const std::string& text) { notice = text; });
  EXPECT_EQ(notice, "");
}

}  // namespace
}  // namespace metal_marlin

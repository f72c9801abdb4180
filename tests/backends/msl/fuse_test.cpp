#include "backends/msl/fuse.h"

#include <gtest/gtest.h>

namespace metal_marlin::msl {
namespace {

// Everything that weights and batches decide is allowed.
FuseOptions all_allowed() {
  return {[](const LinearOp&, const LinearOp&) { return true; }, [](const LinearOp&) { return true; }};
}

// A plan of buffers of eight elements.
Plan plan_of(std::vector<Op> ops) {
  Plan plan;
  for (int i = 0; i < 8; ++i) plan.add_buffer("b", 8);
  plan.ops = std::move(ops);
  return plan;
}

// Every op is in one step, in order: the steps' kinds, as places in the Step variant.
std::vector<std::size_t> kinds(const Plan& plan, const FuseOptions& options = all_allowed()) {
  std::vector<std::size_t> out;
  for (const Step& step : fuse(plan, options)) out.push_back(step.index());
  return out;
}

constexpr std::size_t kSingle = 0, kRopes = 1, kGateUp = 2, kAdded = 3, kPrepared = 4;
using Kinds = std::vector<std::size_t>;

TEST(Fuse, RotationsWithTheirHeadsNorms) {
  const RmsNormOp q_norm{0, 0, "q", 4, 1e-6F};
  const RmsNormOp k_norm{1, 1, "k", 4, 1e-6F};
  const RopeOp q{0, 2, 4};
  const RopeOp k{1, 2, 4};
  const Plan plan = plan_of({q_norm, k_norm, q, k});
  const std::vector<Step> steps = fuse(plan, all_allowed());
  ASSERT_EQ(steps.size(), 1U);
  const auto& step = std::get<RopesStep>(steps[0]);
  EXPECT_EQ(step.q_norm, &std::get<RmsNormOp>(plan.ops[0]));
  EXPECT_EQ(step.k_norm, &std::get<RmsNormOp>(plan.ops[1]));
  EXPECT_EQ(step.q, &std::get<RopeOp>(plan.ops[2]));
  EXPECT_EQ(step.k, &std::get<RopeOp>(plan.ops[3]));

  EXPECT_EQ(kinds(plan_of({q, k})), Kinds{kRopes});
  EXPECT_EQ(kinds(plan_of({q, RopeOp{1, 1, 8}})), (Kinds{kSingle, kSingle}));
  const RmsNormOp other_eps{1, 1, "k", 4, 1e-5F};
  EXPECT_EQ(kinds(plan_of({q_norm, other_eps, q, k})), (Kinds{kSingle, kSingle, kRopes}));
  const RmsNormOp whole{1, 1, "k", 8, 1e-6F};
  EXPECT_EQ(kinds(plan_of({q_norm, whole, q, k})), (Kinds{kSingle, kSingle, kRopes}));
  const RmsNormOp elsewhere{1, 2, "k", 4, 1e-6F};
  EXPECT_EQ(kinds(plan_of({q_norm, elsewhere, q, k})), (Kinds{kSingle, kSingle, kRopes}));
}

TEST(Fuse, GateAndUp) {
  const LinearOp gate{0, 1, "gate", ""};
  const LinearOp up{0, 2, "up", ""};
  const SwigluOp product{1, 2, 3};
  EXPECT_EQ(kinds(plan_of({gate, up, product})), Kinds{kGateUp});
  FuseOptions no_kernel = all_allowed();
  no_kernel.fuses = [](const LinearOp& a, const LinearOp& b) { return a.weight != "gate" || b.weight != "up"; };
  EXPECT_EQ(kinds(plan_of({gate, up, product}), no_kernel), (Kinds{kSingle, kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({gate, LinearOp{4, 2, "up", ""}, product})), (Kinds{kSingle, kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({gate, LinearOp{0, 2, "up", "bias"}, product})), (Kinds{kSingle, kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({up, gate, product})), (Kinds{kSingle, kSingle, kSingle}));
}

TEST(Fuse, ASumTakesTheProductBeforeIt) {
  const LinearOp linear{0, 1, "down", ""};
  const AddOp add{2, 1};
  const Plan plan = plan_of({linear, add});
  const std::vector<Step> steps = fuse(plan, all_allowed());
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(std::get<AddedLinearStep>(steps[0]).linear, &std::get<LinearOp>(plan.ops[0]));
  EXPECT_EQ(std::get<AddedLinearStep>(steps[0]).sum, 2);
  // The product is wanted later, or written anew before that.
  EXPECT_EQ(kinds(plan_of({linear, add, AddOp{3, 1}})), (Kinds{kSingle, kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({linear, add, LinearOp{2, 1, "up", ""}, AddOp{3, 1}, AddOp{4, 1}})),
            (Kinds{kAdded, kSingle, kSingle, kSingle}));
  // The sum is the product's own input, or another buffer is added.
  EXPECT_EQ(kinds(plan_of({linear, AddOp{0, 1}})), (Kinds{kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({linear, AddOp{2, 3}})), (Kinds{kSingle, kSingle}));
}

TEST(Fuse, WhatAProductReadsIsMadeReady) {
  const RmsNormOp norm{0, 1, "norm", 8, 1e-6F};
  const LinearOp linear{1, 2, "q", ""};
  const Plan plan = plan_of({norm, linear});
  const std::vector<Step> steps = fuse(plan, all_allowed());
  ASSERT_EQ(steps.size(), 2U);
  EXPECT_EQ(std::get<PreparedStep>(steps[0]).linear, &std::get<LinearOp>(plan.ops[1]));
  EXPECT_EQ(std::get<const RmsNormOp*>(std::get<PreparedStep>(steps[0]).op), &std::get<RmsNormOp>(plan.ops[0]));
  EXPECT_EQ(std::get<const Op*>(steps[1]), &plan.ops[1]);
  EXPECT_EQ(kinds(plan_of({SwigluOp{3, 4, 1}, linear, AddOp{5, 2}})), (Kinds{kPrepared, kAdded}));

  FuseOptions in_f32 = all_allowed();
  in_f32.prepares = [](const LinearOp& l) { return l.weight != "q"; };
  EXPECT_EQ(kinds(plan, in_f32), (Kinds{kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({RmsNormOp{0, 1, "norm", 4, 1e-6F}, linear})), (Kinds{kSingle, kSingle}));  // of heads
  EXPECT_EQ(kinds(plan_of({norm, LinearOp{3, 2, "q", ""}})), (Kinds{kSingle, kSingle}));
  EXPECT_EQ(kinds(plan_of({SwigluOp{3, 4, 5}, linear})), (Kinds{kSingle, kSingle}));
}

}  // namespace
}  // namespace metal_marlin::msl

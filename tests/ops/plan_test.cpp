#include "ops/plan.h"

#include <gtest/gtest.h>

#include <map>

#include "test_data.h"

namespace metal_marlin {
namespace {

// A plan of buffers of 64 elements.
Plan wide_plan_of(std::vector<Op> ops) {
  Plan plan;
  for (int i = 0; i < 6; ++i) plan.add_buffer("b" + std::to_string(i), 64);
  plan.ops = std::move(ops);
  return plan;
}

Plan rotated(const Plan& plan, const std::map<std::string, int>& blocks) {
  return with_rotations(plan, [&](const std::string& weight) {
    const auto found = blocks.find(weight);
    return found == blocks.end() ? 0 : found->second;
  });
}

std::vector<std::string> described(const Plan& plan) {
  std::vector<std::string> out;
  for (const Op& op : plan.ops) out.push_back(describe(op));
  return out;
}

MoeOp experts() {
  return {0, 1, 2, "experts.", "", 2, 1, 96, 1, 1, RouterScoring::kSoftmax, false, 1};
}

TEST(Plan, OpsAreDescribedByWhatTheyAreOf) {
  EXPECT_EQ(describe(Op(LinearOp{0, 1, "up.weight", ""}, 3)), "linear up.weight");
  EXPECT_EQ(describe(Op(AddOp{0, 1}, 3)), "add of layer 3");
  EXPECT_EQ(describe(Op(AddOp{0, 1}, -1)), "add");
}

TEST(Plan, OpsThatChangeABufferReadAndWriteIt) {
  EXPECT_EQ(read_buffers(Op(AddOp{0, 1}, 0)), (std::vector<BufferId>{0, 1}));
  EXPECT_EQ(written_buffers(Op(AddOp{0, 1}, 0)), std::vector<BufferId>{0});
  EXPECT_EQ(read_buffers(Op(AddOp{0, 1, 2}, 0)), (std::vector<BufferId>{0, 1, 2}));
  EXPECT_EQ(read_buffers(Op(GatedOp{1, 2, 3}, 0)), (std::vector<BufferId>{1, 2}));
  EXPECT_EQ(written_buffers(Op(GatedOp{1, 2, 3}, 0)), std::vector<BufferId>{3});
}

TEST(Plan, WeightsAreNamedOnceInOrderOfUse) {
  const Plan plan = wide_plan_of(
      {Op(LinearOp{0, 1, "b", "bias"}, 4), Op(LinearOp{1, 2, "a", ""}, 5), Op(LinearOp{2, 3, "b", ""}, 6)});
  const std::vector<PlannedWeight> weights = planned_weights(plan);
  std::vector<std::string> names;
  for (const PlannedWeight& weight : weights) names.push_back(weight.name);
  EXPECT_EQ(names, (std::vector<std::string>{"b", "bias", "a"}));
  EXPECT_EQ(weights[0].shape, (std::vector<std::int64_t>{64, 64}));
  EXPECT_TRUE(weights[0].matrix);
  EXPECT_FALSE(weights[1].matrix);
  EXPECT_EQ(weights[0].layer, 4);
  EXPECT_EQ(planned_weights(wide_plan_of({Op(experts(), 0)})).size(), 6U);
}

// One rotation serves all that read the same, until its source is written; the weights that are not rotated read that.
TEST(Plan, RotationsAreMadeOnceForTheirReaders) {
  const Plan plan = wide_plan_of({LinearOp{0, 1, "q", ""}, LinearOp{0, 2, "k", ""}, LinearOp{0, 3, "plain", ""},
                                  LinearOp{0, 4, "wide", ""}, AddOp{0, 1}, LinearOp{0, 5, "v", ""}});
  const Plan out = rotated(plan, {{"q", 16}, {"k", 16}, {"wide", 32}, {"v", 16}});
  EXPECT_EQ(described(out), (std::vector<std::string>{"hadamard", "linear q", "linear k", "linear plain", "hadamard",
                                                      "linear wide", "add", "hadamard", "linear v"}));
  const auto in = [&](std::size_t i) { return out.ops[i].as<LinearOp>()->in; };
  EXPECT_EQ(in(1), in(2));
  EXPECT_EQ(in(3), 0);
  EXPECT_NE(in(5), in(1));
  EXPECT_NE(in(8), in(1));
  EXPECT_EQ(out.ops[0].as<HadamardOp>()->out, in(1));
  EXPECT_EQ(out.ops[0].as<HadamardOp>()->block, 16);
  EXPECT_EQ(out.width(in(1)), 64);
}

TEST(Plan, ExpertsAreRotatedAlike) {
  const Plan plan = wide_plan_of({Op(experts(), 0)});
  std::map<std::string, int> blocks;
  for (const char* const expert : {"0", "1"}) {
    for (const char* const projection : {"gate", "up"})
      blocks[std::string("experts.") + expert + "." + projection + "_proj.weight"] = 64;
    blocks[std::string("experts.") + expert + ".down_proj.weight"] = 32;
  }
  const Plan out = rotated(plan, blocks);
  ASSERT_EQ(out.ops.size(), 2U);
  EXPECT_EQ(out.ops[1].as<MoeOp>()->in, out.ops[0].as<HadamardOp>()->out);
  EXPECT_EQ(out.ops[1].as<MoeOp>()->down_rotation, 32);
  blocks["experts.1.up_proj.weight"] = 16;
  expect_error(ErrorCode::kUnsupported, "tensor experts.1.up_proj.weight is stored rotated: the experts of a layer",
               [&] { rotated(plan, blocks); });
}

TEST(Plan, WhatCannotBeRotatedIsNamed) {
  expect_error(ErrorCode::kUnsupported, "tensor q is stored rotated: blocks of 128 do not divide its width, 64", [] {
    rotated(wide_plan_of({LinearOp{0, 1, "q", ""}}), {{"q", 128}});
  });
  expect_error(ErrorCode::kUnsupported, "tensor e is stored rotated: only linear layers and experts can be", [] {
    rotated(wide_plan_of({EmbeddingOp{"e", 0, 10}}), {{"e", 16}});
  });
}

}  // namespace
}  // namespace metal_marlin

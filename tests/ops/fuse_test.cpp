#include "ops/fuse.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace metal_marlin {
namespace {

// A plan of buffers of eight elements.
Plan plan_of(std::vector<Op> ops) {
  Plan plan;
  for (int i = 0; i < 8; ++i) plan.add_buffer("b", 8);
  plan.ops = std::move(ops);
  return plan;
}

// All that a backend may be able to do.
FuseCapabilities everything() {
  FuseCapabilities out;
  out.linear_inputs = out.linear_groups = out.attention = out.rotations = true;
  out.gate_up = [](const LinearOp&, const LinearOp&, const GatedOp&) { return true; };
  return out;
}
// What one that prepares inputs apart can: no norm goes into a product.
FuseCapabilities launches() {
  FuseCapabilities out;
  out.rotations = true;
  out.gate_up = [](const LinearOp&, const LinearOp&, const GatedOp&) { return true; };
  out.prepares = [](const LinearOp&) { return true; };
  return out;
}

// How many ops each step takes. They are all of the plan's, in order.
using Sizes = std::vector<std::size_t>;
Sizes sizes(const Plan& plan, const FuseCapabilities& capabilities = everything()) {
  Sizes out;
  const Op* next = plan.ops.data();
  for (const FusedStep& step : fuse(plan, capabilities)) {
    EXPECT_EQ(step.ops.data(), next);
    next += step.ops.size();
    out.push_back(step.ops.size());
  }
  EXPECT_EQ(next, plan.ops.data() + plan.ops.size());
  return out;
}
using Buffers = std::vector<BufferId>;

TEST(Fuse, NothingWithoutCapabilities) {
  const Plan plan =
      plan_of({NormOp{0, 1, "n", 8, 1e-6F}, LinearOp{1, 2, "gate", ""}, LinearOp{1, 3, "up", ""}, GatedOp{2, 3, 4},
               RopeOp{5, 2, 4}, RopeOp{6, 2, 4}, AttentionOp{5, 6, 7, 0, 2, 2, 4, 1, 0}});
  EXPECT_EQ(sizes(plan, {}), Sizes(7, 1));
}

TEST(Fuse, RotationsWithTheirHeadsNorms) {
  const NormOp q_norm{0, 0, "q", 4, 1e-6F};
  const NormOp k_norm{1, 1, "k", 4, 1e-6F};
  const RopeOp q{0, 2, 4};
  const RopeOp k{1, 2, 4};
  const Plan plan = plan_of({q_norm, k_norm, q, k});
  const std::vector<FusedStep> steps = fuse(plan, launches());
  ASSERT_EQ(steps.size(), 1U);
  const auto& heads = std::get<FusedHeads>(steps[0].form);
  EXPECT_EQ(heads.q_norm, plan.ops[0].as<NormOp>());
  EXPECT_EQ(heads.k_norm, plan.ops[1].as<NormOp>());
  EXPECT_EQ(heads.q_rope, plan.ops[2].as<RopeOp>());
  EXPECT_EQ(heads.k_rope, plan.ops[3].as<RopeOp>());
  EXPECT_EQ(heads.attention, nullptr);

  EXPECT_EQ(sizes(plan_of({q, k}), launches()), Sizes{2});
  EXPECT_EQ(sizes(plan_of({q, RopeOp{1, 1, 8}}), launches()), (Sizes{1, 1}));
  EXPECT_EQ(sizes(plan_of({q, RopeOp{1, 2, 4, 1}}), launches()), (Sizes{1, 1}));  // another table
  EXPECT_EQ(sizes(plan_of({q, q}), launches()), (Sizes{1, 1}));
  const NormOp other_eps{1, 1, "k", 4, 1e-5F};
  EXPECT_EQ(sizes(plan_of({q_norm, other_eps, q, k}), launches()), (Sizes{1, 1, 2}));
  const NormOp whole{1, 1, "k", 8, 1e-6F};
  EXPECT_EQ(sizes(plan_of({q_norm, whole, q, k}), launches()), (Sizes{1, 1, 2}));
  const NormOp elsewhere{1, 2, "k", 4, 1e-6F};
  EXPECT_EQ(sizes(plan_of({q_norm, elsewhere, q, k}), launches()), (Sizes{1, 1, 2}));
}

TEST(Fuse, AttentionTakesWhatComesBeforeIt) {
  const NormOp q_norm{0, 0, "q", 4, 1e-6F};
  const NormOp k_norm{1, 1, "k", 4, 1e-6F};
  const RopeOp q{0, 2, 4};
  const RopeOp k{1, 2, 4};
  const AttentionOp attention{0, 1, 2, 3, 2, 2, 4, 1, 0};
  for (const std::vector<Op>& before : std::vector<std::vector<Op>>{
           {}, {q}, {k}, {q, k}, {k_norm, q_norm, q, k}, {q_norm, q, k_norm, k}, {k_norm, k}}) {
    std::vector<Op> ops = before;
    ops.emplace_back(attention);
    const Plan plan = plan_of(ops);
    EXPECT_EQ(sizes(plan), Sizes{before.size() + 1});
    Buffers buffers = fuse(plan, everything())[0].buffers();
    std::sort(buffers.begin(), buffers.end());
    EXPECT_EQ(buffers, (Buffers{0, 1, 2, 3}));
  }
  EXPECT_EQ(sizes(plan_of({q, q_norm, attention})), (Sizes{1, 2}));  // the norm is the first
  EXPECT_EQ(sizes(plan_of({q_norm, q_norm, attention})), (Sizes{1, 2}));
  EXPECT_EQ(sizes(plan_of({RopeOp{4, 2, 4}, q, attention})), (Sizes{1, 2}));
  EXPECT_EQ(sizes(plan_of({q, RopeOp{1, 2, 4, 1}, attention})), (Sizes{1, 2}));
}

TEST(Fuse, GateAndUp) {
  const LinearOp gate{0, 1, "gate", ""};
  const LinearOp up{0, 2, "up", ""};
  const GatedOp product{1, 2, 3};
  for (const FuseCapabilities& some : {everything(), launches()}) {
    const Plan plan = plan_of({gate, up, product});
    EXPECT_EQ(sizes(plan, some), Sizes{3});
    EXPECT_EQ(fuse(plan, some)[0].inner, (Buffers{1, 2}));
    EXPECT_EQ(fuse(plan, some)[0].buffers(), (Buffers{0, 3}));
    // Somebody still reads gate or up: a later op, or who asked for it.
    EXPECT_EQ(sizes(plan_of({gate, up, product, AddOp{4, 1}}), some).back(), 1U);
    EXPECT_GT(sizes(plan_of({gate, up, product, AddOp{4, 1}}), some).size(), 2U);
    EXPECT_GT(sizes(plan_of({gate, up, product, AddOp{4, 2}}), some).size(), 2U);
    Plan wanted = plan_of({gate, up, product});
    wanted.outputs = {{"up", 2}};
    EXPECT_GT(sizes(wanted, some).size(), 1U);
    EXPECT_GT(sizes(plan_of({up, gate, product}), some).size(), 1U);
    EXPECT_GT(sizes(plan_of({gate, up, GatedOp{1, 2, 0}}), some).size(), 1U);  // over what they read
    EXPECT_GT(sizes(plan_of({gate, LinearOp{4, 2, "up", ""}, product}), some).size(), 1U);
  }
  FuseCapabilities no_kernel = launches();
  no_kernel.gate_up = [](const LinearOp& a, const LinearOp& b, const GatedOp&) {
    return a.weight != "gate" || b.weight != "up";
  };
  EXPECT_EQ(sizes(plan_of({gate, up, product}), no_kernel), (Sizes{1, 1, 1}));
}

TEST(Fuse, ASumTakesTheProductBeforeIt) {
  const LinearOp linear{0, 1, "down", ""};
  const AddOp add{2, 1};
  for (const FuseCapabilities& some : {everything(), launches()}) {
    const Plan plan = plan_of({linear, add});
    EXPECT_EQ(sizes(plan, some), Sizes{2});
    EXPECT_EQ(std::get<FusedLinears>(fuse(plan, some)[0].form).sum, plan.ops[1].as<AddOp>());
    EXPECT_EQ(fuse(plan, some)[0].buffers(), (Buffers{0, 2}));
    // The product is wanted later, or written anew before that.
    EXPECT_EQ(sizes(plan_of({linear, add, AddOp{3, 1}}), some), (Sizes{1, 1, 1}));
    EXPECT_EQ(sizes(plan_of({linear, add, LinearOp{2, 1, "up", ""}, AddOp{3, 1}, AddOp{4, 1}}), some),
              (Sizes{2, 1, 1, 1}));
    Plan wanted = plan;
    wanted.outputs = {{kLogitsOutput, 1}};
    EXPECT_EQ(sizes(wanted, some), (Sizes{1, 1}));
    // The sum is the product's own input, or another buffer is added.
    EXPECT_EQ(sizes(plan_of({linear, AddOp{0, 1}}), some), (Sizes{1, 1}));
    EXPECT_EQ(sizes(plan_of({linear, AddOp{2, 3}}), some), (Sizes{1, 1}));
    // The product is added through a gate.
    EXPECT_EQ(sizes(plan_of({linear, AddOp{2, 1, 3}}), some), (Sizes{1, 1}));
  }
}

TEST(Fuse, LinearsTakeTheNormAndTheRotationBeforeThem) {
  const NormOp norm{0, 1, "norm", 8, 1e-6F};
  const HadamardOp rotation{1, 2, 8};
  const LinearOp q{2, 3, "q", ""};
  const LinearOp k{2, 4, "k", ""};
  const Plan plan = plan_of({norm, rotation, q, k});
  EXPECT_EQ(sizes(plan), Sizes{4});
  EXPECT_EQ(fuse(plan, everything())[0].buffers(), (Buffers{0, 3, 4}));
  EXPECT_EQ(std::get<FusedLinears>(fuse(plan, everything())[0].form).in, 0);
  EXPECT_EQ(sizes(plan_of({norm, rotation, q, k, AddOp{5, 2}})), (Sizes{1, 1, 2, 1}));
  EXPECT_EQ(sizes(plan_of({norm, rotation, q, k, AddOp{5, 1}})), (Sizes{1, 3, 1}));
  EXPECT_EQ(sizes(plan_of({NormOp{0, 1, "norm", 4, 1e-6F}, LinearOp{1, 2, "q", ""}})), (Sizes{1, 1}));  // of heads
  // In place: what the norm reads is what the step reads.
  const Plan in_place = plan_of({NormOp{1, 1, "norm", 8, 1e-6F}, LinearOp{1, 2, "q", ""}});
  EXPECT_EQ(sizes(in_place), Sizes{2});
  EXPECT_EQ(fuse(in_place, everything())[0].buffers(), (Buffers{1, 2}));
  EXPECT_EQ(sizes(plan_of({NormOp{2, 1, "norm", 8, 1e-6F}, LinearOp{1, 3, "q", ""}, AddOp{2, 3}})),
            (Sizes{2, 1}));  // the sum changes what the step reads
}

TEST(Fuse, WhatAProductReadsIsPrepared) {
  const NormOp norm{0, 1, "norm", 8, 1e-6F};
  const LinearOp linear{1, 2, "q", ""};
  const auto reader = [](const Plan& plan, const FuseCapabilities& capabilities) {
    return std::get<SingleOp>(fuse(plan, capabilities)[0].form).reader;
  };
  const Plan plan = plan_of({norm, linear});
  EXPECT_EQ(reader(plan, launches()), plan.ops[1].as<LinearOp>());
  const Plan gated = plan_of({GatedOp{3, 4, 1}, linear, AddOp{5, 2}});
  EXPECT_EQ(sizes(gated, launches()), (Sizes{1, 2}));
  EXPECT_EQ(reader(gated, launches()), gated.ops[1].as<LinearOp>());
  FuseCapabilities in_f32 = launches();
  in_f32.prepares = [](const LinearOp& l) { return l.weight != "q"; };
  EXPECT_EQ(reader(plan, in_f32), nullptr);
  EXPECT_EQ(reader(plan_of({NormOp{0, 1, "norm", 4, 1e-6F}, linear}), launches()), nullptr);  // of heads
  EXPECT_EQ(reader(plan_of({norm, LinearOp{3, 2, "q", ""}}), launches()), nullptr);
  EXPECT_EQ(reader(plan_of({GatedOp{3, 4, 5}, linear}), launches()), nullptr);
}

TEST(Fuse, LifetimesEndWithTheLastReader) {
  Plan plan = plan_of({LinearOp{0, 1, "gate", ""}, LinearOp{0, 2, "up", ""}, GatedOp{1, 2, 3},
                       LinearOp{3, 4, "down", ""}, AddOp{0, 4}, SelectOp{0, 5}});
  plan.outputs = {{kHiddenOutput, 5}};
  const std::vector<FusedStep> steps = fuse(plan, everything());
  ASSERT_EQ(steps.size(), 3U);
  const std::vector<Lifetime> found = lifetimes(plan, steps);
  const auto of = [&](std::size_t id) { return std::pair(found[id].first, found[id].last); };
  EXPECT_EQ(of(0), std::pair(0, 2));
  EXPECT_EQ(of(1), std::pair(-1, -1));  // inside a step
  EXPECT_EQ(of(3), std::pair(0, 1));
  EXPECT_EQ(of(4), std::pair(-1, -1));
  EXPECT_EQ(of(5), std::pair(2, 3));  // the output
}

}  // namespace
}  // namespace metal_marlin

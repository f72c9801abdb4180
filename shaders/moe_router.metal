// Which experts a token goes to, and with what weights: softmax (Mixtral, Qwen3-MoE) or
// sigmoid scores with a bias that counts for the choice alone and groups of experts
// (DeepSeek-V3, arXiv 2412.19437; GLM-4.x). Ties go to the lower index; NaN comes last.
#include <metal_stdlib>

#include "common/experts_params.h"
#include "common/unroll.h"

using namespace metal;

constant constexpr uint kMaxPerLane = 32;

struct Best {
  float value;
  uint index;
};
// The largest over a simdgroup, the lowest index of equals.
METAL_FUNC Best best_of_simdgroup(Best mine) {
  Best out;
  out.value = simd_max(mine.value);
  out.index = simd_min(mine.value == out.value ? mine.index : 0xFFFFFFFFu);
  return out;
}
// Of a lane's values, expert lane + 32 i at i; those marked in `gone` do not count.
METAL_FUNC Best best_of_lane(const thread float* values, uint gone, uint experts, uint lane, uint first, uint last) {
  Best best = {-INFINITY, 0xFFFFFFFFu};
  MM_UNROLL for (uint i = 0; i < kMaxPerLane; ++i) {
    const uint e = lane + 32 * i;
    if (e >= experts) break;
    if ((gone >> i & 1u) != 0 || e < first || e >= last) continue;
    if (best.index == 0xFFFFFFFFu || values[i] > best.value) best = {values[i], e};
  }
  return best;
}

// One simdgroup a token. Grid: tokens; threadgroups of 32.
[[kernel, max_total_threads_per_threadgroup(32)]] void moe_router(
    device const float* logits [[buffer(0)]], device const float* bias [[buffer(1)]], device int* ids [[buffer(2)]],
    device float* weights [[buffer(3)]], constant RouterParams& p [[buffer(4)]],
    device const float* expert_scales [[buffer(5)]],
    uint token [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  float scores[kMaxPerLane], choice[kMaxPerLane];
  device const float* row = logits + ulong(token) * p.experts;
  float top = -INFINITY;
  MM_UNROLL for (uint i = 0; i < kMaxPerLane; ++i) {
    if (lane + 32 * i >= p.experts) break;
    const float v = row[lane + 32 * i];
    scores[i] = isnan(v) ? -INFINITY : v;
    top = max(top, scores[i]);
  }
  top = simd_max(top);
  float total = 0.0f;
  MM_UNROLL for (uint i = 0; i < kMaxPerLane; ++i) {
    if (lane + 32 * i >= p.experts) break;
    scores[i] = p.sigmoid != 0 ? 1.0f / (1.0f + exp(-scores[i]))
                               : (scores[i] == top ? 1.0f : exp(scores[i] - top));  // infinities too
    total += scores[i];
  }
  total = simd_sum(total);
  MM_UNROLL for (uint i = 0; i < kMaxPerLane; ++i) {
    if (lane + 32 * i >= p.experts) break;
    if (p.sigmoid == 0) scores[i] /= total;
    choice[i] = p.bias != 0 ? scores[i] + bias[lane + 32 * i] : scores[i];
  }
  // Experts of groups that are not among the best are gone from the start.
  uint gone = 0;
  if (p.groups > 1) {
    const uint size = p.experts / p.groups;
    float mine = -INFINITY;  // the score of group `lane`
    for (uint g = 0; g < p.groups; ++g) {
      const Best first = best_of_simdgroup(best_of_lane(choice, 0, p.experts, lane, g * size, (g + 1) * size));
      float score = first.value;
      if (p.group_best == 2) {
        const uint without = first.index % 32 == lane ? 1u << (first.index / 32) : 0u;
        score += best_of_simdgroup(best_of_lane(choice, without, p.experts, lane, g * size, (g + 1) * size)).value;
      }
      if (lane == g) mine = score;
    }
    uint kept = 0;
    for (uint n = 0; n < p.group_limit; ++n) {
      const bool open = lane < p.groups && (kept >> lane & 1u) == 0;
      const uint group = best_of_simdgroup({open ? mine : -INFINITY, open ? lane : 0xFFFFFFFEu}).index;
      kept |= 1u << (group & 31u);
    }
    for (uint i = 0; lane + 32 * i < p.experts; ++i)
      if ((kept >> ((lane + 32 * i) / size) & 1u) == 0) gone |= 1u << i;
  }
  int id = 0;
  float weight = 0.0f;  // of choice `lane`
  for (uint n = 0; n < p.chosen; ++n) {
    const Best best = best_of_simdgroup(best_of_lane(choice, gone, p.experts, lane, 0, p.experts));
    const uint owner = best.index % 32, place = best.index / 32;
    float score = 0.0f;
    MM_UNROLL for (uint i = 0; i < kMaxPerLane; ++i)
      if (i == place && lane == owner) score = scores[i];
    score = simd_shuffle(score, ushort(owner));
    if (lane == owner) gone |= 1u << place;
    if (lane == n) {
      id = int(best.index);
      weight = score;
    }
  }
  if (p.normalize != 0) weight /= simd_sum(weight) + 1e-20f;
  if (lane >= p.chosen) return;
  ids[ulong(token) * p.chosen + lane] = id;
  weights[ulong(token) * p.chosen + lane] = weight * p.scale * (p.scaled != 0 ? expert_scales[id] : 1.0f);
}

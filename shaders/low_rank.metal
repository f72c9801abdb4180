// What adapters of low rank (LoRA, arXiv 2106.09685) add to a product: y += b (scale a x), each row by its own adapter.
#include "common/launch.h"
#include "common/low_rank_params.h"

// scale a x. One simdgroup an element: grid (most_rank, rows).
[[kernel, max_total_threads_per_threadgroup(32)]] void low_rank_down(
    device const float* x [[buffer(0)]], device const int* adapters [[buffer(1)]],
    device const LowRankEntry* entries [[buffer(2)]], device const float* a [[buffer(3)]],
    device float* inner [[buffer(4)]], constant LowRankParams& p [[buffer(5)]],
    uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  follow_earlier_kernels();
  const int adapter = adapters[at.y];
  if (adapter < 0) return;
  device const LowRankEntry& entry = entries[adapter];
  if (at.x >= entry.rank) return;
  device const float* row = x + ulong(at.y) * p.in;
  device const float* weights = a + ulong(entry.first + at.x) * p.in;
  float sum = 0.0f;
  for (uint i = lane; i < p.in; i += 32) sum = fma(row[i], weights[i], sum);
  sum = simd_sum(sum);
  if (lane == 0) inner[ulong(at.y) * p.most_rank + at.x] = sum * entry.scale;
}

// The same of tokens' rows of an embedding. One thread an element: grid (most_rank, rows).
[[kernel]] void low_rank_look_up(device const int* tokens [[buffer(0)]], device const int* adapters [[buffer(1)]],
                                 device const LowRankEntry* entries [[buffer(2)]], device const float* a [[buffer(3)]],
                                 device float* inner [[buffer(4)]], constant LowRankParams& p [[buffer(5)]],
                                 uint2 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  const int adapter = adapters[at.y];
  if (adapter < 0) return;
  device const LowRankEntry& entry = entries[adapter];
  if (at.x >= entry.rank) return;
  const ulong row = ulong(entry.first) * p.in + ulong(tokens[at.y]) * entry.rank;
  inner[ulong(at.y) * p.most_rank + at.x] = a[row + at.x] * entry.scale;
}

// y += b inner; b as [rank][out]. One thread an output: grid (out, rows).
[[kernel]] void low_rank_up(device const float* inner [[buffer(0)]], device const int* adapters [[buffer(1)]],
                            device const LowRankEntry* entries [[buffer(2)]], device const float* b [[buffer(3)]],
                            device float* y [[buffer(4)]], constant LowRankParams& p [[buffer(5)]],
                            uint2 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  const int adapter = adapters[at.y];
  if (adapter < 0) return;
  device const LowRankEntry& entry = entries[adapter];
  if (entry.rank == 0) return;
  device const float* row = inner + ulong(at.y) * p.most_rank;
  device const float* weights = b + ulong(entry.first) * p.out + at.x;
  float sum = 0.0f;
  for (uint r = 0; r < entry.rank; ++r) sum = fma(row[r], weights[ulong(r) * p.out], sum);
  y[ulong(at.y) * p.out + at.x] += sum;
}

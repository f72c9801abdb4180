// Tokens grouped by expert and put together again. An assignment is choice `a % chosen` of
// token `a / chosen`; within an expert assignments keep their order, so that the result never
// depends on scheduling. Ids outside the experts are nobody's: they count for nothing.
#include "common/gated.h"

constant constexpr uint kScanThreads = 128;

// How many of earlier threads' flags are set, and in `total` how many of all.
METAL_FUNC uint flags_before(bool flag, threadgroup uint* counts, thread uint& total, uint simdgroup, uint lane) {
  const uint mine = flag ? 1u : 0u;
  const uint before = simd_prefix_exclusive_sum(mine);
  if (lane == 31) counts[simdgroup] = before + mine;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  uint out = before;
  total = 0;
  for (uint s = 0; s < kScanThreads / 32; ++s) {
    if (s < simdgroup) out += counts[s];
    total += counts[s];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return out;
}

// counts[e]: assignments of expert e. One threadgroup an expert.
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_count(
    device const int* ids [[buffer(0)]], device int* counts [[buffer(1)]], constant uint& assignments [[buffer(2)]],
    uint expert [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup uint sums[kScanThreads / 32];
  uint count = 0;
  for (uint a = index; a < assignments; a += kScanThreads) count += ids[a] == int(expert) ? 1 : 0;
  count = simd_sum(count);
  if (lane == 0) sums[simdgroup] = count;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (index != 0) return;
  for (uint s = 1; s < kScanThreads / 32; ++s) count += sums[s];
  counts[expert] = int(count);
}

// offsets[e]: assignments of experts before e; offsets[experts]: all. One simdgroup.
[[kernel, max_total_threads_per_threadgroup(32)]] void moe_offsets(device const int* counts [[buffer(0)]],
                                                                   device int* offsets [[buffer(1)]],
                                                                   constant uint& experts [[buffer(2)]],
                                                                   uint lane [[thread_index_in_simdgroup]]) {
  int total = 0;
  for (uint first = 0; first < experts; first += 32) {
    const int mine = first + lane < experts ? counts[first + lane] : 0;
    const int before = simd_prefix_exclusive_sum(mine);
    if (first + lane < experts) offsets[first + lane] = total + before;
    total += simd_shuffle(before + mine, ushort(31));
  }
  if (lane == 0) offsets[experts] = total;
}

// order[i]: the assignment at place i of the grouped rows; places[a]: where assignment a
// went. One threadgroup an expert.
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_scatter(
    device const int* ids [[buffer(0)]], device const int* offsets [[buffer(1)]], device int* order [[buffer(2)]],
    device int* places [[buffer(3)]], constant uint& assignments [[buffer(4)]], constant uint& experts [[buffer(5)]],
    uint expert [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup uint counts[kScanThreads / 32];
  int next = offsets[expert];
  for (uint first = 0; first < assignments; first += kScanThreads) {
    const uint a = first + index;
    const int id = a < assignments ? ids[a] : -1;
    uint total;
    const int place = next + int(flags_before(id == int(expert), counts, total, simdgroup, lane));
    if (id == int(expert)) {
      order[place] = int(a);
      places[a] = place;
    }
    if (expert == 0 && a < assignments && (id < 0 || id >= int(experts))) places[a] = -1;
    next += int(total);
  }
}

// out[i] = x[order[i] / chosen]: the rows that experts get. Grid: (width, rows).
template <typename T>
[[kernel]] void moe_gather(device const T* x [[buffer(0)]], device const int* order [[buffer(1)]],
                           device T* out [[buffer(2)]], constant uint& width [[buffer(3)]],
                           constant uint& chosen [[buffer(4)]], device const int* rows [[buffer(5)]],
                           uint2 at [[thread_position_in_grid]]) {
  if (at.y >= uint(*rows)) return;
  out[ulong(at.y) * width + at.x] = x[ulong(uint(order[at.y]) / chosen) * width + at.x];
}

// gate = the gated product of both, with their biases, [experts][width], of the rows' experts. Grid: (width, rows).
[[kernel]] void moe_gated(device float* gate [[buffer(0)]], device const float* up [[buffer(1)]],
                          device const float* gate_biases [[buffer(2)]], device const float* up_biases [[buffer(3)]],
                          device const int* ids [[buffer(4)]], device const int* order [[buffer(5)]],
                          device const int* rows [[buffer(6)]], constant uint& width [[buffer(7)]],
                          constant GateParams& p [[buffer(8)]], uint2 at [[thread_position_in_grid]]) {
  if (at.y >= uint(*rows)) return;
  const ulong place = ulong(at.y) * width + at.x, bias = ulong(ids[order[at.y]]) * width + at.x;
  gate[place] = gated_product(p, gate[place] + gate_biases[bias], up[place] + up_biases[bias]);
}

// y[t] = sum over choices c, in order, of weights[t][c] * rows[places[t][c]] (+ y[t]); rows have the biases, [experts][width],
// of their experts added, where there are any. Grid: (width, tokens).
template <typename T>
[[kernel]] void moe_combine(device const T* rows [[buffer(0)]], device const int* places [[buffer(1)]],
                            device const float* weights [[buffer(2)]], device T* y [[buffer(3)]],
                            constant uint& width [[buffer(4)]], constant uint& chosen [[buffer(5)]],
                            constant uint& accumulate [[buffer(6)]], device const float* biases [[buffer(7)]],
                            device const int* ids [[buffer(8)]], constant uint& has_biases [[buffer(9)]],
                            uint2 at [[thread_position_in_grid]]) {
  const ulong to = ulong(at.y) * width + at.x;
  float sum = accumulate != 0 ? float(y[to]) : 0.0f;
  for (uint c = 0; c < chosen; ++c) {
    const ulong choice = ulong(at.y) * chosen + c;
    const int place = places[choice];
    if (place < 0) continue;
    const float row = float(rows[ulong(place) * width + at.x]);
    sum = fma(weights[choice], has_biases != 0 ? row + biases[ulong(ids[choice]) * width + at.x] : row, sum);
  }
  y[to] = T(sum);
}

#define MM_MOE_ROWS(T)                                                                                               \
  template [[host_name("moe_gather_" #T)]] [[kernel]] void moe_gather<T>(device const T*, device const int*,         \
                                                                         device T*, constant uint&, constant uint&,  \
                                                                         device const int*, uint2);                  \
  template [[host_name("moe_combine_" #T)]] [[kernel]] void moe_combine<T>(                                          \
      device const T*, device const int*, device const float*, device T*, constant uint&, constant uint&,            \
      constant uint&, device const float*, device const int*, constant uint&, uint2);
MM_MOE_ROWS(float)
MM_MOE_ROWS(half)
MM_MOE_ROWS(bfloat)

// Reductions over shards, and the step of a ring that ranks take between messages.
// Sums in f32, in the order of the shards; a NaN in any shard stays one.
#include <metal_stdlib>

using namespace metal;

enum ReduceOp : uint { kSum = 0, kMean = 1, kMax = 2, kMin = 3 };

METAL_FUNC float reduce(uint op, float a, float b) {
  if (op == kSum || op == kMean) return a + b;
  if (isnan(a) || isnan(b)) return NAN;
  return op == kMax ? max(a, b) : min(a, b);
}

// out = op over shards of in[shards][elements]. Threads take elements in turn.
template <typename T>
[[kernel]] void all_reduce(device const T* in [[buffer(0)]], device T* out [[buffer(1)]],
                           constant ulong& elements [[buffer(2)]], constant uint& shards [[buffer(3)]],
                           constant uint& op [[buffer(4)]], uint at [[thread_position_in_grid]],
                           uint threads [[threads_per_grid]]) {
  for (ulong i = at; i < elements; i += threads) {
    float total = float(in[i]);
    for (uint s = 1; s < shards; ++s) total = reduce(op, total, float(in[s * elements + i]));
    out[i] = T(op == kMean ? total / float(shards) : total);
  }
}

// chunk = op(chunk, incoming), where the last step of a mean divides by `ranks`
// (else 1). Chunks hold f32, so that a ring rounds once, at its end.
[[kernel]] void ring_step(device float* chunk [[buffer(0)]], device const float* incoming [[buffer(1)]],
                          constant ulong& elements [[buffer(2)]], constant uint& op [[buffer(3)]],
                          constant uint& ranks [[buffer(4)]], uint at [[thread_position_in_grid]],
                          uint threads [[threads_per_grid]]) {
  for (ulong i = at; i < elements; i += threads) {
    const float total = reduce(op, chunk[i], incoming[i]);
    chunk[i] = op == kMean ? total / float(ranks) : total;
  }
}

template [[host_name("all_reduce_float")]] [[kernel]] void all_reduce<float>(device const float*, device float*,
                                                                             constant ulong&, constant uint&,
                                                                             constant uint&, uint, uint);
template [[host_name("all_reduce_half")]] [[kernel]] void all_reduce<half>(device const half*, device half*,
                                                                           constant ulong&, constant uint&,
                                                                           constant uint&, uint, uint);
template [[host_name("all_reduce_bfloat")]] [[kernel]] void all_reduce<bfloat>(device const bfloat*, device bfloat*,
                                                                               constant ulong&, constant uint&,
                                                                               constant uint&, uint, uint);

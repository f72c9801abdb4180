// Multi-head latent attention (arXiv 2405.04434) around its products: norm of the latent,
// rotation of the shared key part and of each head's query part, latents into the cache.
// Heads' queries go to latent space by batched_gemm, attention over the cache of latents is
// paged_attention's, its sums become values by batched_gemm again.
#include "common/paged_attention_params.h"
#include "common/cache_rows.h"

using namespace metal;

struct Pair {
  uint first, second;
};
METAL_FUNC Pair rotated_pair(constant MlaParams& p, uint i) {
  if (p.interleaved != 0) return {2 * i, 2 * i + 1};
  return {i, i + p.rope_dim / 2};
}

METAL_FUNC float2 rotated(float a, float b, float frequency, int position, float scale) {
  const float angle = float(position) * frequency;
  const float c = precise::cos(angle) * scale, s = precise::sin(angle) * scale;
  return float2(a * c - b * s, b * c + a * s);
}

constant constexpr uint kPlaceThreads = 128;
constant constexpr uint kMaxLatent = 640;  // as paged_attention's widest key

// latent [tokens][rank + rope_dim] goes to the cache [pages][page_tokens][rank + rope_dim];
// the rotated part of q [tokens][heads][nope_dim + rope_dim] to that of latent queries
// [tokens][heads][rank + rope_dim]. One threadgroup a token.
template <typename Rows>
[[kernel, max_total_threads_per_threadgroup(128)]] void mla_place(
    device const float* q [[buffer(0)]], device const float* latent [[buffer(1)]],
    device const float* norm [[buffer(2)]], device const float* frequencies [[buffer(3)]],
    device const int* positions [[buffer(4)]], device const int* sequences [[buffer(5)]],
    device const int* tables [[buffer(6)]], device uchar* cache [[buffer(7)]], device float* latent_q [[buffer(8)]],
    constant MlaParams& p [[buffer(9)]], uint token [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float squares[kPlaceThreads / 32];
  threadgroup float placed[kMaxLatent];
  const uint width = p.rank + p.rope_dim, pairs = p.rope_dim / 2;
  device const float* const row = latent + ulong(token) * width;
  float sum = 0.0f;
  for (uint i = index; i < p.rank; i += kPlaceThreads) sum = fma(row[i], row[i], sum);
  sum = simd_sum(sum);
  if (lane == 0) squares[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = 0.0f;
  for (uint s = 0; s < kPlaceThreads / 32; ++s) sum += squares[s];
  const float factor = 1.0f / precise::sqrt(sum / float(p.rank) + p.eps);
  const int position = positions[token];
  const uint page = uint(position) / p.page_tokens, slot = uint(position) % p.page_tokens;
  device const int* const table = tables + ulong(sequences[token]) * p.table_stride;
  for (uint i = index; i < p.rank; i += kPlaceThreads) placed[i] = row[i] * factor * norm[i];
  for (uint i = index; i < pairs; i += kPlaceThreads) {
    const Pair at = rotated_pair(p, i);
    const float2 r = rotated(row[p.rank + at.first], row[p.rank + at.second], frequencies[i], position, p.rope_scale);
    placed[p.rank + at.first] = r.x;
    placed[p.rank + at.second] = r.y;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const ulong place = ulong(table[page]) * p.page_tokens + slot;
  for (uint group = simdgroup; 32 * group < width; group += kPlaceThreads / 32) {
    const uint e = 32 * group + lane;
    Rows::store(cache, place, width, group, e < width ? placed[e] : 0.0f, lane);
  }
  for (uint n = index; n < p.heads * pairs; n += kPlaceThreads) {
    const ulong head = ulong(token) * p.heads + n / pairs;
    const Pair at = rotated_pair(p, n % pairs);
    device const float* const from = q + head * (p.nope_dim + p.rope_dim) + p.nope_dim;
    device float* const to = latent_q + head * width + p.rank;
    const float2 r = rotated(from[at.first], from[at.second], frequencies[n % pairs], position, p.rope_scale);
    to[at.first] = r.x;
    to[at.second] = r.y;
  }
}
#define MM_MLA(name, ...)                                                                                          \
  template [[host_name("mla_place_" #name)]] [[kernel, max_total_threads_per_threadgroup(128)]]                    \
  void mla_place<__VA_ARGS__>(device const float*, device const float*, device const float*, device const float*,  \
                              device const int*, device const int*, device const int*, device uchar*,              \
                              device float*, constant MlaParams&, uint, uint, uint, uint);
MM_MLA(float, NumberRows<float>)
MM_MLA(half, NumberRows<half>)
MM_MLA(bfloat, NumberRows<bfloat>)
MM_MLA(fp8, Fp8Rows)
MM_MLA(int8, Int8Rows)
MM_MLA(int4, Int4Rows)
MM_MLA(fp4, Fp4Rows)

// Attention of one query over keys and values that it reads once, by a running softmax
// (arXiv 1805.02867): four simdgroups take blocks of 16 keys in turn, a lane the elements
// lane, lane + 32 ... of a head, and what they found is put together in order.
#pragma once
#include <metal_stdlib>

using namespace metal;

constant constexpr uint kKeyBlock = 16;
constant constexpr uint kAttentionSimdgroups = 4;

// What is done to a score, and what a query sees.
struct ScoreParams {
  float scale;
  float soft_cap;  // scores become cap * tanh(score / cap); 0: none
};

// What a simdgroup has seen: the largest score, the sum of weights over it, and of weighted values.
template <int kParts>
struct Attended {
  float top;
  float total;
  float sum[kParts];
};
template <int kParts>
METAL_FUNC Attended<kParts> nothing_attended() {
  Attended<kParts> a;
  a.top = -INFINITY;
  a.total = 0.0f;
  for (uint i = 0; i < uint(kParts); ++i) a.sum[i] = 0.0f;
  return a;
}

// This lane's elements of a head, zeros past its end.
template <typename T, int kParts>
METAL_FUNC void load_head(thread float* out, device const T* head, uint width, uint lane) {
  for (uint i = 0; i < uint(kParts); ++i) out[i] = lane + 32 * i < width ? float(head[lane + 32 * i]) : 0.0f;
}

// Where block b of 16 keys begins, in elements, and how far keys lie apart: Where has
// key_at(b), value_at(b), key_stride, value_stride, key_width, value_width. `mask`, if not
// null, is added to the scores. Keys [begin, end).
template <typename Cache, typename Where, int kParts>
METAL_FUNC void attend(thread Attended<kParts>& a, const thread float* query, device const Cache* keys,
                       device const Cache* values, Where where, ScoreParams p, device const float* mask, uint begin,
                       uint end, uint simdgroup, uint lane) {
  for (uint block = begin / kKeyBlock + simdgroup; block * kKeyBlock < end; block += kAttentionSimdgroups) {
    const ulong key_place = where.key_at(block), value_place = where.value_at(block);
    float score = -INFINITY;  // of key `lane` of the block
    for (uint j = 0; j < kKeyBlock; ++j) {
      const uint key = block * kKeyBlock + j;
      if (key < begin || key >= end) continue;
      float product = 0.0f;
      for (uint i = 0; i < uint(kParts); ++i) {
        const uint e = lane + 32 * i;
        if (e < where.key_width)
          product = fma(query[i], float(keys[key_place + ulong(j) * where.key_stride + e]), product);
      }
      product = simd_sum(product) * p.scale;
      if (p.soft_cap != 0.0f) product = p.soft_cap * precise::tanh(product / p.soft_cap);
      if (mask != nullptr) product += mask[key];
      if (lane == j) score = product;
    }
    const float now = max(a.top, simd_max(score));
    if (now == -INFINITY) continue;  // all of them masked
    const float keep = exp(a.top - now), weight = exp(score - now);
    a.top = now;
    a.total = a.total * keep + simd_sum(weight);
    for (uint i = 0; i < uint(kParts); ++i) a.sum[i] *= keep;
    for (uint j = 0; j < kKeyBlock; ++j) {
      const uint key = block * kKeyBlock + j;
      const float w = simd_shuffle(weight, ushort(j));
      if (key < begin || key >= end) continue;
      for (uint i = 0; i < uint(kParts); ++i) {
        const uint e = lane + 32 * i;
        if (e < where.value_width)
          a.sum[i] = fma(w, float(values[value_place + ulong(j) * where.value_stride + e]), a.sum[i]);
      }
    }
  }
}

// Threadgroup memory in which simdgroups put together what they found.
template <int kParts>
struct AttentionShare {
  float sums[kAttentionSimdgroups][32 * kParts];
  float top[kAttentionSimdgroups];
  float total[kAttentionSimdgroups];
};
// All of the threadgroup; a barrier follows.
template <int kParts>
METAL_FUNC void share_attended(threadgroup AttentionShare<kParts>& s, const thread Attended<kParts>& a, uint simdgroup,
                               uint lane) {
  for (uint i = 0; i < uint(kParts); ++i) s.sums[simdgroup][lane + 32 * i] = a.sum[i];
  if (lane == 0) {
    s.top[simdgroup] = a.top;
    s.total[simdgroup] = a.total;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
// Element e of the answer; `sink` takes a share of the weight, -infinity none. Where
// everything was masked, zero.
template <int kParts>
METAL_FUNC float attended_element(threadgroup const AttentionShare<kParts>& s, float sink, uint e) {
  float top = sink;
  for (uint g = 0; g < kAttentionSimdgroups; ++g) top = max(top, s.top[g]);
  if (top == -INFINITY) return 0.0f;
  float total = sink == -INFINITY ? 0.0f : exp(sink - top);
  float sum = 0.0f;
  for (uint g = 0; g < kAttentionSimdgroups; ++g) {
    const float part = exp(s.top[g] - top);
    total = fma(part, s.total[g], total);
    sum = fma(part, s.sums[g][e], sum);
  }
  return sum / total;
}

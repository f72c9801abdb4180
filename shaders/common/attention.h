// Attention of a query, or of several that share keys, over keys and values that are read
// once, by running softmaxes (arXiv 1805.02867). kLanes lanes of a simdgroup hold a key, each
// four neighbouring elements of every 4 * kLanes; so a simdgroup takes 32 / kLanes keys at a
// time, each part with a softmax of its own. What they found is put together in order.
#pragma once
#include "cache_rows.h"
#include "unroll.h"

using namespace metal;

constant constexpr uint kAttentionSimdgroups = 4;
// Keys whose scores a part makes before it looks at the largest.
constant constexpr uint kKeysAtOnce = 4;

// How heads of some width are spread over lanes.
template <int kLanesOfKey, int kChunksOfLane>
struct HeadShape {
  static constant constexpr int kLanes = kLanesOfKey;
  static constant constexpr int kChunks = kChunksOfLane;  // of four elements
  static constant constexpr uint kParts = 32 / kLanesOfKey;
  static constant constexpr uint kWidth = 4 * kLanesOfKey * kChunksOfLane;  // at most
};
typedef HeadShape<8, 2> Head64;
typedef HeadShape<8, 4> Head128;
typedef HeadShape<16, 4> Head256;
typedef HeadShape<32, 5> Head640;

// What is done to a score.
struct ScoreParams {
  float scale;
  float soft_cap;  // scores become cap * tanh(score / cap); 0: none
};

// The first element of chunk c that a lane holds.
template <typename Shape>
METAL_FUNC uint chunk_at(uint c, uint lane) {
  return c * 4 * Shape::kLanes + lane % Shape::kLanes * 4;
}

// What a part of a simdgroup has seen: the largest score, the sum of weights over it, and of weighted values.
template <typename Shape>
struct Attended {
  float top;
  float total;
  float4 sum[Shape::kChunks];
};
template <typename Shape>
METAL_FUNC Attended<Shape> nothing_attended() {
  Attended<Shape> a;
  a.top = -INFINITY;
  a.total = 0.0f;
  MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) a.sum[c] = float4(0.0f);
  return a;
}

template <typename Shape>
struct Query {
  float4 e[Shape::kChunks];
};
template <typename Shape, typename T>
METAL_FUNC Query<Shape> load_query(device const T* head, uint width, uint lane) {
  Query<Shape> q;
  MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) {
    const uint e = chunk_at<Shape>(c, lane);
    MM_UNROLL for (uint i = 0; i < 4; ++i) q.e[c][i] = e + i < width ? float(head[e + i]) : 0.0f;
  }
  return q;
}

// The sum over the lanes that hold a key.
template <int kLanes>
METAL_FUNC float sum_of_key(float v) {
  if (kLanes == 32) return simd_sum(v);
  MM_UNROLL for (ushort step = kLanes / 2; step > 0; step /= 2) v += simd_shuffle_xor(v, step);
  return v;
}

// e to a difference of scores, which is not positive: to 2^-22 where that counts.
METAL_FUNC float weight_of(float difference) {
  return fast::exp2(difference * 1.44269504f);
}

METAL_FUNC float final_score(float product, ScoreParams p) {
  const float score = product * p.scale;
  return p.soft_cap != 0.0f ? p.soft_cap * precise::tanh(score / p.soft_cap) : score;
}

// Keys [begin, end), by all of the threadgroup. Where tells key and value of key k: the rows
// key_row(k) and value_row(k) of key_width and value_row_width elements, of which those from
// key_offset on, `width`, are the key, and the first value_width the value. `mask`, if not null,
// is added to the scores. kWhole: widths and offset are multiples of 4; then nothing branches,
// lanes past a row's end read its last elements, which count for nothing.
template <typename Rows, typename Shape, int kHeads, bool kWhole, typename Where>
METAL_FUNC void attend_rows(thread Attended<Shape>* a, const thread Query<Shape>* q, device const uchar* keys,
                            device const uchar* values, Where where, ScoreParams p, device const float* mask,
                            uint begin, uint end, uint simdgroup, uint lane) {
  constexpr uint kSpan = Shape::kParts * kKeysAtOnce;
  const uint part = lane / Shape::kLanes;
#pragma clang loop unroll(disable)
  for (uint first = begin + simdgroup * kSpan; first < end; first += kAttentionSimdgroups * kSpan) {
    float score[kHeads][kKeysAtOnce];
    MM_UNROLL for (uint u = 0; u < kKeysAtOnce; ++u) {
      const ulong row = where.key_row(min(first + u * Shape::kParts + part, end - 1));
      float product[kHeads];
      MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) product[h] = 0.0f;
      MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) {
        const uint e = kWhole ? min(chunk_at<Shape>(c, lane), where.width - 4) : chunk_at<Shape>(c, lane);
        if (!kWhole && e >= where.width) continue;
        const float4 k = Rows::template load<kWhole>(keys, row, where.key_width, where.key_offset + e);
        MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) product[h] += dot(q[h].e[c], k);
      }
      MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) score[h][u] = sum_of_key<Shape::kLanes>(product[h]) * p.scale;
    }
    if (p.soft_cap != 0.0f) {
      MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) MM_UNROLL for (uint u = 0; u < kKeysAtOnce; ++u) score[h][u] =
          p.soft_cap * precise::tanh(score[h][u] / p.soft_cap);
    }
    if (mask != nullptr) {
      MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) MM_UNROLL for (uint u = 0; u < kKeysAtOnce; ++u) score[h][u] +=
          mask[min(first + u * Shape::kParts + part, end - 1)];
    }
    MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) {
      float now = a[h].top;
      MM_UNROLL for (uint u = 0; u < kKeysAtOnce; ++u) {
        if (first + u * Shape::kParts + part >= end) score[h][u] = -INFINITY;
        now = max(now, score[h][u]);
      }
      // Nothing seen yet: differences of infinities are no numbers.
      const float from = now == -INFINITY ? 0.0f : now;
      const float keep = weight_of(a[h].top - from);
      float sum = 0.0f;
      MM_UNROLL for (uint u = 0; u < kKeysAtOnce; ++u) {
        score[h][u] = weight_of(score[h][u] - from);
        sum += score[h][u];
      }
      a[h].top = now;
      a[h].total = fma(a[h].total, keep, sum);
      MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) a[h].sum[c] *= keep;
    }
    MM_UNROLL for (uint u = 0; u < kKeysAtOnce; ++u) {
      const ulong row = where.value_row(min(first + u * Shape::kParts + part, end - 1));
      MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) {
        const uint e = kWhole ? min(chunk_at<Shape>(c, lane), where.value_width - 4) : chunk_at<Shape>(c, lane);
        if (!kWhole && e >= where.value_width) continue;
        const float4 v = Rows::template load<kWhole>(values, row, where.value_row_width, e);
        MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) a[h].sum[c] += score[h][u] * v;
      }
    }
  }
}
template <typename Rows, typename Shape, int kHeads, typename Where>
METAL_FUNC void attend(thread Attended<Shape>* a, const thread Query<Shape>* q, device const uchar* keys,
                       device const uchar* values, Where where, ScoreParams p, device const float* mask, uint begin,
                       uint end, uint simdgroup, uint lane) {
  if ((where.width | where.key_width | where.key_offset | where.value_width | where.value_row_width) % 4 == 0) {
    attend_rows<Rows, Shape, kHeads, true>(a, q, keys, values, where, p, mask, begin, end, simdgroup, lane);
  } else {
    attend_rows<Rows, Shape, kHeads, false>(a, q, keys, values, where, p, mask, begin, end, simdgroup, lane);
  }
}

// Threadgroup memory in which parts put together what they found, one head at a time.
template <typename Shape>
struct AttentionShare {
  float sums[kAttentionSimdgroups * Shape::kParts][Shape::kWidth];
  float top[kAttentionSimdgroups * Shape::kParts];
  float total[kAttentionSimdgroups * Shape::kParts];
};
// All of the threadgroup; ends with a barrier.
template <typename Shape>
METAL_FUNC void share_attended(threadgroup AttentionShare<Shape>& s, const thread Attended<Shape>& a, uint simdgroup,
                               uint lane) {
  const uint part = simdgroup * Shape::kParts + lane / Shape::kLanes;
  MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) {
    const uint e = chunk_at<Shape>(c, lane);
    MM_UNROLL for (uint i = 0; i < 4; ++i) s.sums[part][e + i] = a.sum[c][i];
  }
  if (lane % Shape::kLanes == 0) {
    s.top[part] = a.top;
    s.total[part] = a.total;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
// Of all parts together: the largest score and the sum of weights over it.
struct AttendedTotal {
  float top;
  float total;
};
template <typename Shape>
METAL_FUNC AttendedTotal attended_total(threadgroup AttentionShare<Shape>& s, float sink) {
  constexpr uint kAll = kAttentionSimdgroups * Shape::kParts;
  AttendedTotal t = {sink, 0.0f};
  MM_UNROLL for (uint g = 0; g < kAll; ++g) t.top = max(t.top, s.top[g]);
  if (t.top == -INFINITY) return t;
  t.total = sink == -INFINITY ? 0.0f : weight_of(sink - t.top);
#pragma clang loop unroll(disable)
  for (uint g = 0; g < kAll; ++g) t.total = fma(weight_of(s.top[g] - t.top), s.total[g], t.total);
  return t;
}
// Element e of the sum of weighted values.
template <typename Shape>
METAL_FUNC float attended_sum(threadgroup AttentionShare<Shape>& s, AttendedTotal t, uint e) {
  constexpr uint kAll = kAttentionSimdgroups * Shape::kParts;
  if (t.top == -INFINITY) return 0.0f;
  float sum = 0.0f;
#pragma clang loop unroll_count(4)
  for (uint g = 0; g < kAll; ++g) sum = fma(weight_of(s.top[g] - t.top), s.sums[g][e], sum);
  return sum;
}
// An element of the answer; zero where nothing was seen. A sink is a score without a value.
template <typename Shape>
METAL_FUNC float attended_element(threadgroup AttentionShare<Shape>& s, float sink, uint e) {
  const AttendedTotal t = attended_total(s, sink);
  return t.top == -INFINITY ? 0.0f : attended_sum(s, t, e) / t.total;
}

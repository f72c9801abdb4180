// The next token of each row of logits: penalties, temperature, top-k, typical, top-p, min-p,
// a draw. Nothing is sorted: thresholds are found digit by digit of the ordered bits, so that
// any k and any vocabulary cost the same few passes. Ties go to the lower id, throughout.
// The options are those of include/metal_marlin/sampler.h, in its order. Penalties change the logits
// where they lie; a row whose logits are not all finite is answered by -1.
#include <metal_stdlib>

#include "common/sampling_params.h"
#include "common/unroll.h"

using namespace metal;

// A token that is penalized, and how often it was.
struct SeenToken {
  int id;
  int count;
};

constant constexpr uint kSampleThreads = 1024;
constant constexpr uint kSampleSimdgroups = kSampleThreads / 32;
constant constexpr uint kDigits = 16;
constant constexpr uint kNobody = 0xFFFFFFFFu;
constant constexpr uint kNotFinite = 0xFFFFFFFFu;  // above every number's key

struct SampleMemory {
  float bins[kSampleSimdgroups][kDigits];
  float sums[kSampleThreads];
  float simd_sums[kSampleSimdgroups];
  uint keys[kSampleSimdgroups];
  uint ids[kSampleSimdgroups];
  uint found;
};

// A threadgroup's row, and where a thread stands in it.
struct Row {
  uint vocab;
  uint index;
  uint simdgroup;
  uint lane;
};

// Bits in the order of the numbers; both zeros are one.
METAL_FUNC uint ordered(float v) {
  const uint bits = v == 0.0f ? 0u : as_type<uint>(v);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
METAL_FUNC uint ordered_or_not_finite(float v) {
  return (as_type<uint>(v) & 0x7F800000u) == 0x7F800000u ? kNotFinite : ordered(v);
}

// Elements that are left: those above `key`, and of those at it the ids up to `last`.
struct Threshold {
  uint key;
  uint last;
};
METAL_FUNC Threshold everything() {
  return {0u, kNobody};
}
METAL_FUNC bool passes(Threshold t, uint key, uint id) {
  return key > t.key || (key == t.key && id <= t.last);
}

METAL_FUNC float sum_of_all(threadgroup SampleMemory& m, Row r, float v) {
  v = simd_sum(v);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (r.lane == 0) m.simd_sums[r.simdgroup] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint s = 0; s < kSampleSimdgroups; ++s) total += m.simd_sums[s];
  return total;
}

// Everything that is asked of an element of the row.
template <typename T>
struct Logits {
  device const T* values;
  constant SampleParams& p;

  METAL_FUNC float at(uint id) const { return float(values[id]); }
  METAL_FUNC float weight(float v, float top) const { return exp((v - top) / p.temperature); }
};

// Each id is there once.
template <typename T>
METAL_FUNC void penalize(device T* values, device const SeenToken* seen, constant SampleParams& p, Row r) {
  for (uint i = p.first_seen + r.index; i < p.last_seen; i += kSampleThreads) {
    device const SeenToken& token = seen[i];
    if (token.id < 0 || uint(token.id) >= r.vocab) continue;
    float v = float(values[token.id]);
    v = v > 0.0f ? v / p.repeat_penalty : v * p.repeat_penalty;
    if (token.count > 0) v -= float(token.count) * p.frequency_penalty + p.presence_penalty;
    values[token.id] = T(v);
  }
  threadgroup_barrier(mem_flags::mem_device);
}

// What the stages of the choice leave, and what they measure by.
template <typename T>
struct Choice {
  Logits<T> logits;
  float top;
  Threshold top_k;
  float entropy;       // of what top-k left
  float normalizer;    // its sum of weights
  Threshold typical;
  Threshold top_p;

  // Less surprising than the mean, or more, by how much: the less the likelier to stay.
  METAL_FUNC uint typical_key(float weight) const {
    return weight > 0.0f ? ordered(-fabs(-log(weight / normalizer) - entropy)) : 0u;
  }
  // Whether the first `stages` of top-k, typical and top-p leave it; v and weight are its own.
  METAL_FUNC bool left(uint stages, uint id, float v, float weight) const {
    if (stages > 0 && !passes(top_k, ordered(v), id)) return false;
    if (stages > 1 && !passes(typical, typical_key(weight), id)) return false;
    return stages < 3 || passes(top_p, ordered(v), id);
  }
};

// What decides a stage: 0 top-k, by number; 1 typical, by weight in another order; 2 top-p, by weight.
// The elements at and above the threshold that is given have measure `target` or just more.
template <typename T>
METAL_FUNC Threshold select(threadgroup SampleMemory& m, Row r, thread const Choice<T>& c, uint stage, float target) {
  uint key = 0;
  float above = 0.0f, weight_at = 0.0f;
  for (int shift = 28; shift >= 0; shift -= 4) {
    float bins[kDigits];
    MM_UNROLL for (uint d = 0; d < kDigits; ++d) bins[d] = 0.0f;
    for (uint id = r.index; id < r.vocab; id += kSampleThreads) {
      const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
      if (!c.left(stage, id, v, w)) continue;
      const uint k = stage == 1 ? c.typical_key(w) : ordered(v);
      if (shift < 28 && (k ^ key) >> (shift + 4) != 0) continue;
      const uint digit = k >> shift & 15u;
      MM_UNROLL for (uint d = 0; d < kDigits; ++d) bins[d] += d == digit ? (stage == 0 ? 1.0f : w) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    MM_UNROLL for (uint d = 0; d < kDigits; ++d) {
      const float sum = simd_sum(bins[d]);
      if (r.lane == 0) m.bins[r.simdgroup][d] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint digit = kDigits;
    for (int d = kDigits - 1; d >= 0 && digit == kDigits; --d) {
      float sum = 0.0f;
      MM_UNROLL for (uint s = 0; s < kSampleSimdgroups; ++s) sum += m.bins[s][d];
      weight_at = sum;
      if (above + sum >= target) {
        digit = uint(d);
      } else {
        above += sum;
      }
    }
    if (digit == kDigits) return everything();  // all of them together fall short, by a rounding
    key |= digit << shift;
  }
  // Of those at the threshold, so many from the lowest id on; all have the same weight.
  float number = 0.0f;
  const uint chunk = (r.vocab + kSampleThreads - 1) / kSampleThreads;
  const uint begin = min(r.index * chunk, r.vocab), end = min(begin + chunk, r.vocab);
  for (uint id = begin; id < end; ++id) {
    const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
    if (c.left(stage, id, v, w) && (stage == 1 ? c.typical_key(w) : ordered(v)) == key) number += 1.0f;
  }
  const float equals = sum_of_all(m, r, number);
  float wanted = target - above;
  if (stage != 0) wanted = weight_at > 0.0f ? (target - above) / (weight_at / equals) : 1.0f;
  wanted = clamp(ceil(wanted), 1.0f, equals);
  m.sums[r.index] = number;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float before = 0.0f;
  for (uint i = 0; i < r.index; ++i) before += m.sums[i];
  if (before < wanted && before + number >= wanted) {
    for (uint id = begin; id < end; ++id) {
      const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
      if (!c.left(stage, id, v, w) || (stage == 1 ? c.typical_key(w) : ordered(v)) != key) continue;
      before += 1.0f;
      if (before >= wanted) {
        m.found = id;
        break;
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return {key, m.found};
}

// The largest logit's id, and by `top` itself; nobody's where one is not finite.
template <typename T>
METAL_FUNC uint largest(threadgroup SampleMemory& m, Row r, Logits<T> logits, thread float& top) {
  uint key = 0, best = kNobody;
  for (uint id = r.index; id < r.vocab; id += kSampleThreads) {
    const uint k = ordered_or_not_finite(logits.at(id));
    if (best == kNobody || k > key) {
      key = k;
      best = id;
    }
  }
  const uint highest = simd_max(key);
  const uint lowest = simd_min(key == highest ? best : kNobody);
  if (r.lane == 0) {
    m.keys[r.simdgroup] = highest;
    m.ids[r.simdgroup] = lowest;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  key = 0;
  best = kNobody;
  MM_UNROLL for (uint s = 0; s < kSampleSimdgroups; ++s) {
    const uint k = m.keys[s];
    if (m.ids[s] == kNobody || (best != kNobody && (k < key || (k == key && m.ids[s] > best)))) continue;
    key = k;
    best = m.ids[s];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (key == kNotFinite) return kNobody;
  top = logits.at(best);
  return best;
}

template <typename T>
METAL_FUNC void restrict_choice(threadgroup SampleMemory& m, Row r, thread Choice<T>& c, constant SampleParams& p) {
  c.top_k = c.typical = c.top_p = everything();
  if (p.top_k != 0 && p.top_k < r.vocab) c.top_k = select(m, r, c, 0, float(p.top_k));
  if (p.typical_p < 1.0f) {
    float sum = 0.0f, mean = 0.0f;
    for (uint id = r.index; id < r.vocab; id += kSampleThreads) {
      const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
      if (w == 0.0f || !c.left(1, id, v, w)) continue;
      sum += w;
      mean += w * log(w);
    }
    c.normalizer = sum_of_all(m, r, sum);
    c.entropy = log(c.normalizer) - sum_of_all(m, r, mean) / c.normalizer;
    c.typical = select(m, r, c, 1, p.typical_p * c.normalizer);
  }
  if (p.top_p < 1.0f) {
    float sum = 0.0f;
    for (uint id = r.index; id < r.vocab; id += kSampleThreads) {
      const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
      if (c.left(2, id, v, w)) sum += w;
    }
    c.top_p = select(m, r, c, 2, p.top_p * sum_of_all(m, r, sum));
  }
}

// The likeliest of what is left, which min-p measures by.
template <typename T>
METAL_FUNC float largest_weight(threadgroup SampleMemory& m, Row r, thread const Choice<T>& c) {
  float most = 0.0f;
  for (uint id = r.index; id < r.vocab; id += kSampleThreads) {
    const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
    if (c.left(3, id, v, w)) most = max(most, w);
  }
  most = simd_max(most);
  // Nobody reads earlier sums any more: `largest` and `select` have had a barrier since.
  if (r.lane == 0) m.simd_sums[r.simdgroup] = most;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  MM_UNROLL for (uint s = 0; s < kSampleSimdgroups; ++s) most = max(most, m.simd_sums[s]);
  return most;
}

// ids [rows]; probabilities [rows][vocab] where `with_probabilities`. One threadgroup a row.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(1024)]] void sample(
    device T* logits [[buffer(0)]], device const SeenToken* seen [[buffer(1)]], device int* ids [[buffer(2)]],
    device float* probabilities [[buffer(3)]], constant SampleParams* params [[buffer(4)]],
    constant uint& vocab [[buffer(5)]], constant uint& with_probabilities [[buffer(6)]], uint row [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup SampleMemory m;
  const Row r = {vocab, index, simdgroup, lane};
  constant SampleParams& p = params[row];
  device T* const values = logits + ulong(row) * vocab;
  penalize(values, seen, p, r);
  Choice<T> c = {{values, p}, 0.0f, everything(), 0.0f, 1.0f, everything(), everything()};
  const uint best = largest(m, r, c.logits, c.top);
  if (best == kNobody) {
    if (index == 0) ids[row] = -1;
    return;
  }
  device float* const out = probabilities + ulong(row) * vocab;
  if (p.temperature == 0.0f) {
    if (index == 0) ids[row] = int(best);
    if (with_probabilities != 0)
      for (uint id = index; id < vocab; id += kSampleThreads) out[id] = id == best ? 1.0f : 0.0f;
    return;
  }
  restrict_choice(m, r, c, p);
  const float least = p.min_p > 0.0f ? p.min_p * largest_weight(m, r, c) : 0.0f;
  // A thread's neighbouring ids, so that sums go up with ids.
  const uint chunk = (vocab + kSampleThreads - 1) / kSampleThreads;
  const uint begin = min(index * chunk, vocab), end = min(begin + chunk, vocab);
  float sum = 0.0f;
  for (uint id = begin; id < end; ++id) {
    const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
    if (w >= least && c.left(3, id, v, w)) sum += w;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  m.sums[index] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) {
    float of_simdgroup = 0.0f;
    MM_UNROLL for (uint i = 0; i < 32; ++i) of_simdgroup += m.sums[32 * simdgroup + i];
    m.simd_sums[simdgroup] = of_simdgroup;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint s = 0; s < kSampleSimdgroups; ++s) total += m.simd_sums[s];
  if (with_probabilities != 0) {
    for (uint id = begin; id < end; ++id) {
      const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
      out[id] = w >= least && c.left(3, id, v, w) ? w / total : 0.0f;
    }
  }
  if (index != 0) return;
  // Down the sums to the id where they pass the target; the last that is left, should rounding
  // leave the target to nobody.
  float rest = p.uniform * total;
  uint s = 0, last = 0;
  MM_UNROLL for (uint i = 0; i < kSampleSimdgroups; ++i) {
    if (m.simd_sums[i] == 0.0f) continue;
    last = s = i;
    if (rest < m.simd_sums[i]) break;
    rest -= m.simd_sums[i];
  }
  uint thread_of = 32 * s;
  for (uint i = 32 * s; i < 32 * s + 32; ++i) {
    if (m.sums[i] == 0.0f) continue;
    thread_of = i;
    if (rest < m.sums[i]) break;
    rest -= m.sums[i];
  }
  uint chosen = best;
  for (uint id = thread_of * chunk; id < min(thread_of * chunk + chunk, vocab); ++id) {
    const float v = c.logits.at(id), w = c.logits.weight(v, c.top);
    if (!(w >= least && w > 0.0f && c.left(3, id, v, w))) continue;
    chosen = id;
    if (rest < w) break;
    rest -= w;
  }
  ids[row] = int(chosen);
}

#define MM_SAMPLE(T)                                                                                                 \
  template [[host_name("sample_" #T)]] [[kernel, max_total_threads_per_threadgroup(1024)]] void sample<T>(           \
      device T*, device const SeenToken*, device int*, device float*, constant SampleParams*, constant uint&,        \
      constant uint&, uint, uint, uint, uint);
MM_SAMPLE(float)
MM_SAMPLE(half)
MM_SAMPLE(bfloat)

// Activations as the matrix kernels take them: rows of half or bfloat padded with zeros to whole
// units; for half each token over a factor, a power of two, that brings its largest to 2^14 or
// just above, so that half holds it and what is far smaller.
#pragma once
#include <metal_stdlib>

using namespace metal;

constant constexpr uint kPrepareSimdgroups = 16;  // of a threadgroup, at most

// A thread of the threadgroup that prepares a row.
struct PrepareThread {
  uint index, threads, simdgroup, lane;
};
METAL_FUNC float largest_of_all(float v, PrepareThread t, threadgroup float* shared) {
  v = simd_max(v);
  if (t.lane == 0) shared[t.simdgroup] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint s = 0; s < (t.threads + 31) / 32; ++s) v = max(v, shared[s]);
  return v;
}
METAL_FUNC float sum_of_all(float v, PrepareThread t, threadgroup float* shared) {
  v = simd_sum(v);
  if (t.lane == 0) shared[t.simdgroup] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  v = 0.0f;
  for (uint s = 0; s < (t.threads + 31) / 32; ++s) v += shared[s];
  return v;
}

// The row's first `cols` elements x, of which this thread has seen all that it takes, `index` and
// every `threads` from there on, the largest `top`.
template <typename Out>
METAL_FUNC void put_prepared(device const float* x, float top, device Out* out, device float* x_scale, uint cols,
                             uint stride, PrepareThread t, threadgroup float* shared) {
  top = largest_of_all(top, t, shared);
  // Leaves a NaN or an infinity what it is.
  float factor = 1.0f, inverse = 1.0f;
  if (is_same_v<Out, half> && top > 0.0f && isfinite(top)) {
    const uint exponent = max(as_type<uint>(top) >> 23, 15u) - 14u;
    factor = as_type<float>(exponent << 23);
    inverse = as_type<float>((254u - exponent) << 23);
  }
  if (t.index == 0) *x_scale = factor;
  for (uint k = t.index; k < stride; k += t.threads) out[k] = Out(k < cols ? x[k] * inverse : 0.0f);
}

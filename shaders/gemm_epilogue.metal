// What stands between products: activation and bias alone, gated pairs, residuals,
// norms, rows picked out. Data in f32, f16 or bf16, sums in f32.
#include "common/epilogue.h"

// y = act(y + bias), in place. Grid: (cols, rows).
template <typename T>
[[kernel]] void epilogue(device T* y [[buffer(0)]], device const float* bias [[buffer(1)]],
                         constant uint& cols [[buffer(2)]], constant uint& has_bias [[buffer(3)]],
                         constant uint& activation [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= cols) return;
  device T* const place = y + ulong(at.y) * cols + at.x;
  *place = T(activate(activation, has_bias != 0 ? float(*place) + bias[at.x] : float(*place)));
}

// out = act(gate) * up (arXiv 2002.05202). Grid: elements.
template <typename T>
[[kernel]] void gated(device const T* gate [[buffer(0)]], device const T* up [[buffer(1)]], device T* out [[buffer(2)]],
                      constant ulong& elements [[buffer(3)]], constant uint& activation [[buffer(4)]],
                      uint at [[thread_position_in_grid]], uint threads [[threads_per_grid]]) {
  for (ulong i = at; i < elements; i += threads) out[i] = T(activate(activation, float(gate[i])) * float(up[i]));
}

// x += y. Grid: threads that take elements in turn.
template <typename T>
[[kernel]] void residual(device T* x [[buffer(0)]], device const T* y [[buffer(1)]],
                         constant ulong& elements [[buffer(2)]], uint at [[thread_position_in_grid]],
                         uint threads [[threads_per_grid]]) {
  for (ulong i = at; i < elements; i += threads) x[i] = T(float(x[i]) + float(y[i]));
}

// Root-mean-square norm (arXiv 1910.07467) of runs of `width`, `out` may be `x`.
// One threadgroup a run.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void rms_norm(
    device const T* x [[buffer(0)]], device const float* weight [[buffer(1)]], device T* out [[buffer(2)]],
    constant uint& width [[buffer(3)]], constant float& eps [[buffer(4)]], uint run [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float sums[8];
  device const T* from = x + ulong(run) * width;
  device T* to = out + ulong(run) * width;
  float sum = 0.0f;
  for (uint i = index; i < width; i += threads) {
    const float v = float(from[i]);
    sum = fma(v, v, sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) sums[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = 0.0f;
  for (uint s = 0; s < simdgroups; ++s) sum += sums[s];
  const float factor = 1.0f / precise::sqrt(sum / float(width) + eps);
  for (uint i = index; i < width; i += threads) to[i] = T(float(from[i]) * factor * weight[i]);
}

// out[i] = in[rows[i]]. Grid: (width, rows).
template <typename T>
[[kernel]] void select_rows(device const T* in [[buffer(0)]], device const int* rows [[buffer(1)]],
                            device T* out [[buffer(2)]], constant uint& width [[buffer(3)]],
                            uint2 at [[thread_position_in_grid]]) {
  if (at.x < width) out[ulong(at.y) * width + at.x] = in[ulong(rows[at.y]) * width + at.x];
}

#define MM_EPILOGUE(T)                                                                                             \
  template [[host_name("epilogue_" #T)]] [[kernel]] void epilogue<T>(device T*, device const float*,               \
                                                                     constant uint&, constant uint&,               \
                                                                     constant uint&, uint2);                       \
  template [[host_name("gated_" #T)]] [[kernel]] void gated<T>(device const T*, device const T*, device T*,        \
                                                               constant ulong&, constant uint&, uint, uint);       \
  template [[host_name("residual_" #T)]] [[kernel]] void residual<T>(device T*, device const T*, constant ulong&,  \
                                                                     uint, uint);                                  \
  template [[host_name("rms_norm_" #T)]] [[kernel, max_total_threads_per_threadgroup(256)]] void rms_norm<T>(      \
      device const T*, device const float*, device T*, constant uint&, constant float&, uint, uint, uint, uint,    \
      uint, uint);                                                                                                 \
  template [[host_name("select_rows_" #T)]] [[kernel]] void select_rows<T>(device const T*, device const int*,     \
                                                                           device T*, constant uint&, uint2);
MM_EPILOGUE(float)
MM_EPILOGUE(half)
MM_EPILOGUE(bfloat)

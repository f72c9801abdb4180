// What stands between products: activation and bias alone, gated pairs, residuals,
// norms, rows picked out, activations prepared for products. Data in f32, f16 or bf16, sums in f32.
#include "common/gated.h"
#include "common/launch.h"
#include "common/prepare.h"

// y = act(y + bias), in place. Grid: (cols, rows).
template <typename T>
[[kernel]] void epilogue(device T* y [[buffer(0)]], device const float* bias [[buffer(1)]],
                         constant uint& cols [[buffer(2)]], constant uint& has_bias [[buffer(3)]],
                         constant uint& activation [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  device T* const place = y + ulong(at.y) * cols + at.x;
  *place = T(activate(activation, has_bias != 0 ? float(*place) + bias[at.x] : float(*place)));
}

// out = act(gate) * up (arXiv 2002.05202), or as GateParams say. Grid: elements.
template <typename T>
[[kernel]] void gated(device const T* gate [[buffer(0)]], device const T* up [[buffer(1)]], device T* out [[buffer(2)]],
                      constant ulong& elements [[buffer(3)]], constant GateParams& p [[buffer(4)]],
                      uint at [[thread_position_in_grid]], uint threads [[threads_per_grid]]) {
  follow_earlier_kernels();
  for (ulong i = at; i < elements; i += threads) out[i] = T(gated_product(p, float(gate[i]), float(up[i])));
}

// x += y. Grid: threads that take elements in turn.
template <typename T>
[[kernel]] void residual(device T* x [[buffer(0)]], device const T* y [[buffer(1)]],
                         constant ulong& elements [[buffer(2)]], uint at [[thread_position_in_grid]],
                         uint threads [[threads_per_grid]]) {
  follow_earlier_kernels();
  for (ulong i = at; i < elements; i += threads) x[i] = T(float(x[i]) + float(y[i]));
}

// Root-mean-square norm (arXiv 1910.07467) of runs of `width`, `out` may be `x`.
// One threadgroup a run.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void rms_norm(
    device const T* x [[buffer(0)]], device const float* weight [[buffer(1)]], device T* out [[buffer(2)]],
    constant uint& width [[buffer(3)]], constant float& eps [[buffer(4)]], uint run [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[8];
  follow_earlier_kernels();
  device const T* from = x + ulong(run) * width;
  device T* to = out + ulong(run) * width;
  float sum = 0.0f;
  for (uint i = index; i < width; i += threads) {
    const float v = float(from[i]);
    sum = fma(v, v, sum);
  }
  sum = sum_of_all(sum, {index, threads, simdgroup, lane}, shared);
  const float factor = 1.0f / precise::sqrt(sum / float(width) + eps);
  for (uint i = index; i < width; i += threads) to[i] = T(float(from[i]) * factor * weight[i]);
}

// The same by mean and deviation, without a bias (arXiv 1607.06450).
template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void layer_norm(
    device const T* x [[buffer(0)]], device const float* weight [[buffer(1)]], device T* out [[buffer(2)]],
    constant uint& width [[buffer(3)]], constant float& eps [[buffer(4)]], uint run [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float sums[8], squares[8];
  follow_earlier_kernels();
  device const T* from = x + ulong(run) * width;
  device T* to = out + ulong(run) * width;
  float sum = 0.0f;
  for (uint i = index; i < width; i += threads) sum += float(from[i]);
  const float mean = sum_of_all(sum, {index, threads, simdgroup, lane}, sums) / float(width);
  float square = 0.0f;
  for (uint i = index; i < width; i += threads) {
    const float v = float(from[i]) - mean;
    square = fma(v, v, square);
  }
  square = sum_of_all(square, {index, threads, simdgroup, lane}, squares);
  const float factor = 1.0f / precise::sqrt(square / float(width) + eps);
  for (uint i = index; i < width; i += threads) to[i] = T((float(from[i]) - mean) * factor * weight[i]);
}

// x *= factor, then, with a cap, x = cap tanh(x / cap). Grid: threads that take elements in turn.
template <typename T>
[[kernel]] void scale(device T* x [[buffer(0)]], constant ulong& elements [[buffer(1)]],
                      constant float& factor [[buffer(2)]], constant float& cap [[buffer(3)]],
                      uint at [[thread_position_in_grid]], uint threads [[threads_per_grid]]) {
  follow_earlier_kernels();
  for (ulong i = at; i < elements; i += threads) {
    const float v = float(x[i]) * factor;
    x[i] = T(cap != 0.0f ? cap * precise::tanh(v / cap) : v);
  }
}

// x *= 1 + beta log(1 + floor(position / span)), a row a token. Grid: (width, tokens).
template <typename T>
[[kernel]] void scale_by_position(device T* x [[buffer(0)]], device const int* positions [[buffer(1)]],
                                  constant uint& width [[buffer(2)]], constant float& beta [[buffer(3)]],
                                  constant float& span [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  if (at.x >= width) return;
  device T* const place = x + ulong(at.y) * width + at.x;
  *place = T(float(*place) * (1.0f + beta * precise::log(1.0f + floor(float(positions[at.y]) / span))));
}

// Rows of x prepared (common/prepare.h). One threadgroup a token, of the padded number of tokens.
template <typename Out>
[[kernel, max_total_threads_per_threadgroup(512)]] void prepare(
    device const float* x [[buffer(0)]], device Out* prepared [[buffer(1)]], device float* x_scales [[buffer(2)]],
    constant uint& cols [[buffer(3)]], constant uint& stride [[buffer(4)]], constant uint& tokens [[buffer(5)]],
    constant uint& x_stride [[buffer(6)]], uint token [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[kPrepareSimdgroups];
  follow_earlier_kernels();
  const uint width = token < tokens ? cols : 0;
  device const float* row = x + ulong(token) * x_stride;
  float top = 0.0f;
  for (uint k = index; k < width; k += threads) top = max(top, fabs(row[k]));
  put_prepared(row, top, prepared + ulong(token) * stride, x_scales + token, width, stride,
               {index, threads, simdgroup, lane}, shared);
}
// The same of rows as rms_norm makes them, which are kept in `out` too.
template <typename Out>
[[kernel, max_total_threads_per_threadgroup(512)]] void prepare_norm(
    device const float* x [[buffer(0)]], device Out* prepared [[buffer(1)]], device float* x_scales [[buffer(2)]],
    constant uint& cols [[buffer(3)]], constant uint& stride [[buffer(4)]], constant uint& tokens [[buffer(5)]],
    device const float* weight [[buffer(6)]], device float* out [[buffer(7)]], constant float& eps [[buffer(8)]],
    uint token [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[kPrepareSimdgroups], sums[kPrepareSimdgroups];
  follow_earlier_kernels();
  const uint width = token < tokens ? cols : 0;
  const PrepareThread t = {index, threads, simdgroup, lane};
  device const float* from = x + ulong(token) * cols;
  device float* to = out + ulong(token) * cols;
  float sum = 0.0f, top = 0.0f;
  for (uint i = index; i < width; i += threads) sum = fma(from[i], from[i], sum);
  sum = sum_of_all(sum, t, sums);
  const float factor = 1.0f / precise::sqrt(sum / float(cols) + eps);
  for (uint i = index; i < width; i += threads) {
    to[i] = from[i] * factor * weight[i];
    top = max(top, fabs(to[i]));
  }
  put_prepared(to, top, prepared + ulong(token) * stride, x_scales + token, width, stride, t, shared);
}
// The same of rows as gated makes them, which are kept in `out` too.
template <typename Out>
[[kernel, max_total_threads_per_threadgroup(512)]] void prepare_gated(
    device const float* gate [[buffer(0)]], device Out* prepared [[buffer(1)]], device float* x_scales [[buffer(2)]],
    constant uint& cols [[buffer(3)]], constant uint& stride [[buffer(4)]], constant uint& tokens [[buffer(5)]],
    device const float* up [[buffer(6)]], device float* out [[buffer(7)]], constant GateParams& p [[buffer(8)]],
    uint token [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[kPrepareSimdgroups];
  follow_earlier_kernels();
  const uint width = token < tokens ? cols : 0;
  const ulong row = ulong(token) * cols;
  float top = 0.0f;
  for (uint i = index; i < width; i += threads) {
    out[row + i] = gated_product(p, gate[row + i], up[row + i]);
    top = max(top, fabs(out[row + i]));
  }
  put_prepared(out + row, top, prepared + ulong(token) * stride, x_scales + token, width, stride,
               {index, threads, simdgroup, lane}, shared);
}

// out[i] = in[rows[i]]. Grid: (width, rows).
template <typename T>
[[kernel]] void select_rows(device const T* in [[buffer(0)]], device const int* rows [[buffer(1)]],
                            device T* out [[buffer(2)]], constant uint& width [[buffer(3)]],
                            uint2 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  if (at.x < width) out[ulong(at.y) * width + at.x] = in[ulong(rows[at.y]) * width + at.x];
}

// out[i] = first[i] and second[i] side by side. Grid: (left + right, rows).
template <typename T>
[[kernel]] void join_rows(device const T* first [[buffer(0)]], device const T* second [[buffer(1)]],
                          device T* out [[buffer(2)]], constant uint& left [[buffer(3)]],
                          constant uint& right [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  if (at.x >= left + right) return;
  out[ulong(at.y) * (left + right) + at.x] =
      at.x < left ? first[ulong(at.y) * left + at.x] : second[ulong(at.y) * right + at.x - left];
}

#define MM_EPILOGUE(T)                                                                                             \
  template [[host_name("epilogue_" #T)]] [[kernel]] void epilogue<T>(device T*, device const float*,               \
                                                                     constant uint&, constant uint&,               \
                                                                     constant uint&, uint2);                       \
  template [[host_name("gated_" #T)]] [[kernel]] void gated<T>(device const T*, device const T*, device T*,        \
                                                               constant ulong&, constant GateParams&, uint, uint); \
  template [[host_name("residual_" #T)]] [[kernel]] void residual<T>(device T*, device const T*, constant ulong&,  \
                                                                     uint, uint);                                  \
  template [[host_name("rms_norm_" #T)]] [[kernel, max_total_threads_per_threadgroup(256)]] void rms_norm<T>(      \
      device const T*, device const float*, device T*, constant uint&, constant float&, uint, uint, uint, uint,    \
      uint);                                                                                                 \
  template [[host_name("layer_norm_" #T)]] [[kernel, max_total_threads_per_threadgroup(256)]] void layer_norm<T>(  \
      device const T*, device const float*, device T*, constant uint&, constant float&, uint, uint, uint, uint,    \
      uint);                                                                                                       \
  template [[host_name("scale_" #T)]] [[kernel]] void scale<T>(device T*, constant ulong&, constant float&,        \
                                                               constant float&, uint, uint);                       \
  template [[host_name("scale_by_position_" #T)]] [[kernel]] void scale_by_position<T>(                            \
      device T*, device const int*, constant uint&, constant float&, constant float&, uint2);                      \
  template [[host_name("select_rows_" #T)]] [[kernel]] void select_rows<T>(device const T*, device const int*,     \
                                                                           device T*, constant uint&, uint2);       \
  template [[host_name("join_rows_" #T)]] [[kernel]] void join_rows<T>(device const T*, device const T*, device T*, \
                                                                       constant uint&, constant uint&, uint2);
MM_EPILOGUE(float)
MM_EPILOGUE(half)
MM_EPILOGUE(bfloat)
#define MM_PREPARE(Out)                                                                                            \
  template [[host_name("prepare_" #Out)]] [[kernel, max_total_threads_per_threadgroup(512)]] void prepare<Out>(    \
      device const float*, device Out*, device float*, constant uint&, constant uint&, constant uint&,             \
      constant uint&, uint, uint, uint, uint, uint);                                                               \
  template [[host_name("prepare_norm_" #Out)]] [[kernel, max_total_threads_per_threadgroup(512)]] void             \
  prepare_norm<Out>(device const float*, device Out*, device float*, constant uint&, constant uint&,               \
                    constant uint&, device const float*, device float*, constant float&, uint, uint, uint, uint,   \
                    uint);                                                                                         \
  template [[host_name("prepare_gated_" #Out)]] [[kernel, max_total_threads_per_threadgroup(512)]] void            \
  prepare_gated<Out>(device const float*, device Out*, device float*, constant uint&, constant uint&,              \
                     constant uint&, device const float*, device float*, constant GateParams&, uint, uint, uint,   \
                     uint, uint);
MM_PREPARE(half)
MM_PREPARE(bfloat)

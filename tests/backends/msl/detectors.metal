// For each detector of the host executor a kernel that it must catch, and a
// correct twin that it must let pass.
#include <metal_stdlib>
using namespace metal;

// ---- race in threadgroup memory: no barrier between a write and a neighbour's read
[[kernel]] void race_threadgroup(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[i] = float(i);
  out[i] = tile[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  tile[63 - i] += 1.0f;
  out[i] += tile[i];
}
[[kernel]] void race_threadgroup_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[i] = float(i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  tile[63 - i] += 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[i];
}

// ---- a barrier for the wrong memory
[[kernel]] void race_flags(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = float(i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float v = x[63 - i];
  threadgroup_barrier(mem_flags::mem_device);
  x[i] = v;
}
[[kernel]] void race_flags_twin(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = float(i);
  threadgroup_barrier(mem_flags::mem_device);
  const float v = x[63 - i];
  threadgroup_barrier(mem_flags::mem_device);
  x[i] = v;
}

// ---- threadgroups that meet in device memory
[[kernel]] void race_groups(device uint* count [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i == 0) count[0] += 1u;
}
[[kernel]] void race_groups_twin(device atomic_uint* count [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i == 0) atomic_fetch_add_explicit(count, 1u, memory_order_relaxed);
}

// ---- writes of one threadgroup to one place
[[kernel]] void race_write(device uint* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) { out[i / 2] = i; }
[[kernel]] void race_write_twin(device uint* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i % 2 == 0) out[i / 2] = i;
}

// ---- within a simdgroup a simdgroup barrier is enough, across simdgroups it is not
[[kernel]] void race_simdgroup(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[i] = float(i);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[i < 32 ? i : 63 - i];
}
[[kernel]] void race_simdgroup_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[i] = float(i);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[i / 32 * 32 + 31 - i % 32];
}

// ---- past the end of a buffer
[[kernel]] void bounds_buffer(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  out[i + 1] = 1.0f;
}
[[kernel]] void bounds_buffer_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  out[i] = 1.0f;
}
[[kernel]] void bounds_read(device const half4* x [[buffer(1)]], device float* out [[buffer(0)]],
                            uint i [[thread_index_in_threadgroup]]) {
  out[i] = float(x[i].w);
}
[[kernel]] void bounds_read_twin(device const half4* x [[buffer(1)]], device float* out [[buffer(0)]],
                                 uint i [[thread_index_in_threadgroup]]) {
  out[i] = float(x[i % 32].w);
}

// ---- past the end of a threadgroup array, where the next array lies on a GPU
[[kernel]] void bounds_threadgroup(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float first[64], second[64];
  second[i] = 0.0f;
  (first + 1)[i] = float(i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = second[i] + (i > 0 ? first[i] : 0.0f);
}
[[kernel]] void bounds_threadgroup_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float first[65], second[64];
  second[i] = 0.0f;
  first[i + 1] = float(i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = second[i] + (i > 0 ? first[i] : 0.0f);
}

// ---- threadgroup memory that nobody wrote
[[kernel]] void uninitialised(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  if (i != 5) tile[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[i];
}
[[kernel]] void uninitialised_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[i] = i != 5 ? 1.0f : 0.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[i];
}

// ---- a barrier that some threads miss, or meet elsewhere
[[kernel]] void divergence_return(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i >= 60) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = 1.0f;
}
[[kernel]] void divergence_return_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i >= 60) return;
  out[i] = 1.0f;
}
[[kernel]] void divergence_branch(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) {
    out[i] = 1.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = 2.0f;
  }
}
[[kernel]] void divergence_branch_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) out[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i >= 32) out[i] = 2.0f;
}

// ---- more threadgroup memory than 32 KB
[[kernel]] void memory(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float a[4096];
  threadgroup float b[4097];
  a[i] = b[i] = 1.0f;
  out[i] = a[i] + b[i];
}
[[kernel]] void memory_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float a[4096];
  threadgroup float b[4096];
  a[i] = b[i] = 1.0f;
  out[i] = a[i] + b[i];
}

// ---- a vector at an address that is no multiple of its size
[[kernel]] void misaligned(device float* out [[buffer(0)]], device const float* x [[buffer(1)]],
                           uint i [[thread_index_in_threadgroup]]) {
  device const float4* v = (device const float4*)(x + 1);
  out[i] = v[i % 4].y;
}
[[kernel]] void misaligned_twin(device float* out [[buffer(0)]], device const float* x [[buffer(1)]],
                                uint i [[thread_index_in_threadgroup]]) {
  device const packed_float4* v = (device const packed_float4*)(x + 1);
  out[i] = v[i % 4][1];
}

// ---- not faults: what the executor must get right
[[kernel]] void divergent_sum(device uint* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  uint v = 0;
  if (i % 3 == 0) {
    v = simd_sum(i);
  } else {
    v = simd_sum(1u);
  }
  out[i] = v;
}
[[kernel]] void edges(device uint* out [[buffer(0)]], uint2 at [[thread_position_in_grid]],
                      uint2 threads [[threads_per_grid]], uint2 size [[threads_per_threadgroup]],
                      uint2 full [[dispatch_threads_per_threadgroup]], uint index [[thread_index_in_threadgroup]]) {
  out[at.y * threads.x + at.x] = size.x + 100 * size.y + 10000 * full.x + 1000000 * index;
}
constant int kScale [[function_constant(2)]];
constant bool kHasScale = is_function_constant_defined(kScale);
constant int kTwice = kHasScale ? 2 * kScale : -1;
[[kernel]] void constants(device int* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  out[i] = kHasScale ? kTwice : 7;
}
[[kernel]] void dynamic_memory(device float* out [[buffer(0)]], threadgroup float* tile [[threadgroup(1)]],
                               constant float& add [[buffer(3)]], uint i [[thread_index_in_threadgroup]]) {
  tile[i] = float(i) + add;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = tile[63 - i];
}

// ---- past the end of a thread's own array
[[kernel]] void bounds_own(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  float mine[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  mine[i / 16 + 1] = out[i];
  out[i] = mine[0] + mine[1] + mine[2] + mine[3];
}
[[kernel]] void bounds_own_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  float mine[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  mine[i / 16] = out[i];
  out[i] = mine[0] + mine[1] + mine[2] + mine[3];
}

// ---- of a vector
[[kernel]] void bounds_vector(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  const float3 v = float3(1.0f, 2.0f, out[i]);
  out[i] = v[i / 16];
}
[[kernel]] void bounds_vector_twin(device float* out [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  const float3 v = float3(1.0f, 2.0f, out[i]);
  out[i] = v[i / 22];
}

// ---- no faults: what Apple's compiler makes of these, one result a thread
struct Numbers {
  float y, x, large, none, root, square, factor;
};
[[kernel]] void arithmetic(device float* out [[buffer(0)]], constant Numbers& n [[buffer(3)]],
                           uint i [[thread_index_in_threadgroup]]) {
  const half h = half(n.factor);
  out[i] = i == 0   ? atan2(n.y, n.x)
           : i == 1 ? float(uchar(n.large))
           : i == 2 ? float(char(-n.large))
           : i == 3 ? float(int(n.none))
           : i == 4 ? n.root * n.root - n.square
           : i == 5 ? float(h * h * h)
                    : rsqrt(n.x * n.x);
}

// A thread's place in the grid, by MslBuiltin (tools/msl/include/msl_abi.h). Threadgroups at the grid's
// end are smaller; NVIDIA starts them whole, and threads outside leave at once.
#pragma once
#define __METAL_MARLIN_HOST_TOOLCHAIN__ 1  // no C library here
#include "base.h"
#include "msl_abi.h"

INLINE u32 axis_of(u32 axis, u32 x, u32 y, u32 z) {
  return axis == 0 ? x : axis == 1 ? y : z;
}
INLINE u32 thread_in_block(u32 axis) {
  return axis_of(axis, __nvvm_read_ptx_sreg_tid_x(), __nvvm_read_ptx_sreg_tid_y(), __nvvm_read_ptx_sreg_tid_z());
}
INLINE u32 block_size(u32 axis) {
  return axis_of(axis, __nvvm_read_ptx_sreg_ntid_x(), __nvvm_read_ptx_sreg_ntid_y(), __nvvm_read_ptx_sreg_ntid_z());
}
INLINE u32 block(u32 axis) {
  return axis_of(axis, __nvvm_read_ptx_sreg_ctaid_x(), __nvvm_read_ptx_sreg_ctaid_y(), __nvvm_read_ptx_sreg_ctaid_z());
}
INLINE u32 blocks(u32 axis) {
  return axis_of(axis, __nvvm_read_ptx_sreg_nctaid_x(), __nvvm_read_ptx_sreg_nctaid_y(),
                 __nvvm_read_ptx_sreg_nctaid_z());
}
INLINE u32 position(u32 axis) {
  return block(axis) * block_size(axis) + thread_in_block(axis);
}
INLINE u32 inside_size(u32 axis, u32 grid) {
  const u32 left = grid - block(axis) * block_size(axis);
  return left < block_size(axis) ? left : block_size(axis);
}

DEFINE(_Bool, outside, "msl.outside", u32 x, u32 y, u32 z) {
  return position(0) >= x || position(1) >= y || position(2) >= z;
}

DEFINE(u32, builtin, "msl.builtin", u32 which, u32 axis, u32 x, u32 y, u32 z) {
  const u32 width = inside_size(0, x), height = inside_size(1, y), depth = inside_size(2, z);
  const u32 index = thread_in_block(0) + width * (thread_in_block(1) + height * thread_in_block(2));
  const u32 threads = width * height * depth;
  switch (which) {
    case kMslThreadPositionInGrid: return position(axis);
    case kMslThreadPositionInThreadgroup: return thread_in_block(axis);
    case kMslThreadgroupPositionInGrid: return block(axis);
    case kMslThreadsPerThreadgroup: return axis_of(axis, width, height, depth);
    case kMslThreadsPerGrid: return axis_of(axis, x, y, z);
    case kMslThreadgroupsPerGrid: return blocks(axis);
    case kMslDispatchThreadsPerThreadgroup: return block_size(axis);
    case kMslGridOrigin: return 0;
    case kMslThreadIndexInThreadgroup: return index;
    case kMslThreadIndexInSimdgroup: return index % 32;
    case kMslSimdgroupIndexInThreadgroup: return index / 32;
    case kMslSimdgroupsPerThreadgroup: return (threads + 31) / 32;
    case kMslThreadIndexInQuadgroup: return index % 4;
    case kMslQuadgroupIndexInThreadgroup: return index / 4;
    case kMslQuadgroupsPerThreadgroup: return (threads + 3) / 4;
    default: return 32;  // threads of a simdgroup
  }
}

// NVIDIA instructions that shaders/common/ builds on; no MSL.
#pragma once
#ifdef MSL_TARGET_PTX

MSL_FN MSL_SYNC void msl_mma_16x8x16(float* d, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1, bool f16) {
  if (f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}
// Four 8x8 matrices of 16-bit elements, each turned round on the way; a lane gives the address of
// row lane % 8 of matrix lane / 8.
MSL_FN MSL_SYNC uint4 msl_load_matrices_transposed(threadgroup const void* row) {
  uint4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "r"(uint(ulong(row)))
               : "memory");
  return r;
}
// An 8x8 matrix of 16-bit elements, a pair of neighbours in each lane, turned round.
MSL_FN MSL_SYNC uint msl_transpose_matrix(uint pair) {
  uint r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(pair));
  return r;
}
MSL_FN void msl_copy_async_16(threadgroup void* to, device const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint)(__SIZE_TYPE__)to), "l"(from) : "memory");
}
MSL_FN void msl_copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kBehind>
MSL_FN void msl_copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kBehind) : "memory");
}
// Programmatic dependent launch, of sm_90 and later; for older ones the lines are left out (cuda_device.cpp).
MSL_FN void msl_dependency_wait() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
MSL_FN void msl_dependency_launch() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
// For who reads the PTX: how many registers a kernel's text counts (shaders/common/register_budget.h).
template <uint kCount>
MSL_FN void msl_note_registers() {
  asm volatile("// registers %0" ::"n"(kCount));
}

#endif

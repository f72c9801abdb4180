// 4-bit weights with many tokens: larger tiles than marlin_gemm's, so that each
// activation and each decoded weight is used more often.
#include "common/staged_gemm.h"

MM_STAGED_GEMM(gemm_fp4, 8)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_e2m1_g16", codecs::E2m1, 16, false)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_e2m1_g32", codecs::E2m1, 32, false)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_e2m1_g64", codecs::E2m1, 64, false)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_int4_g32", codecs::Integer<4>, 32, false)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_int4_g64", codecs::Integer<4>, 64, false)


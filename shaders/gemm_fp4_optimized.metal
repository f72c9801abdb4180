// FP4 with many tokens: larger tiles than marlin_gemm's, so that each activation
// and each decoded weight is used more often.
#include "common/staged_gemm.h"

MM_STAGED_GEMM(gemm_fp4, 2, 8)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_e2m1", codecs::E2m1, false)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_e2m1_by16", codecs::E2m1, true)
MM_STAGED_INSTANCE(gemm_fp4, "gemm_fp4_int4", codecs::Integer<4>, false)

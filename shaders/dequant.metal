// Dequantization of the 4-bit formats: FP4 (with f16, bf16, f32, E8M0 and E4M3
// scales), integers signed and unsigned, NF4 and IQ4_NL.
#include "common/dequantize.h"

MM_FOR_EACH_4_BIT_CODEC(MM_DEQUANTIZE)

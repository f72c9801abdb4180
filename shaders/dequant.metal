// Dequantization of the 4-bit formats: FP4 (with f16, bf16, f32, E8M0 and E4M3
// scales), integers signed and unsigned, NF4 and IQ4_NL.
#include "common/dequantize.h"

MM_DEQUANTIZE(e2m1, codecs::E2m1)
MM_DEQUANTIZE(int4, codecs::Integer<4>)
MM_DEQUANTIZE(nf4, codecs::Nf4)
MM_DEQUANTIZE(iq4nl, codecs::Iq4Nl)

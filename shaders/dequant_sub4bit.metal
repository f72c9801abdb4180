// Dequantization of the formats below 4 bits: INT2, INT3, NF2, NF3.
#include "common/dequantize.h"

MM_DEQUANTIZE(int2, codecs::Integer<2>)
MM_DEQUANTIZE(int3, codecs::Integer<3>)
MM_DEQUANTIZE(nf2, codecs::Nf2)
MM_DEQUANTIZE(nf3, codecs::Nf3)

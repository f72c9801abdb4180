// Dequantization of the integers of 5, 6 and 8 bits.
#include "common/dequantize.h"

MM_DEQUANTIZE(int5, codecs::Integer<5>)
MM_DEQUANTIZE(int6, codecs::Integer<6>)
MM_DEQUANTIZE(int8, codecs::Integer<8>)

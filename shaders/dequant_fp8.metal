// Dequantization of E4M3 (fn, to 448) and E5M2.
#include "common/dequantize.h"

MM_FOR_EACH_FP8_CODEC(MM_DEQUANTIZE)

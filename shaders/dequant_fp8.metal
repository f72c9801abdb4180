// Dequantization of E4M3 (fn, to 448) and E5M2.
#include "common/dequantize.h"

MM_DEQUANTIZE(e4m3, codecs::E4m3)
MM_DEQUANTIZE(e5m2, codecs::E5m2)

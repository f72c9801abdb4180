// Dequantization of the formats below 4 bits: INT2, INT3, NF2, NF3.
#include "common/dequantize.h"

MM_FOR_EACH_SMALLER_CODEC(MM_DEQUANTIZE)

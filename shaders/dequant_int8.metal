// Dequantization of the integers of 5, 6 and 8 bits.
#include "common/dequantize.h"

MM_FOR_EACH_LARGER_INTEGER(MM_DEQUANTIZE)

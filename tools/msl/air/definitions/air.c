// The functions that AIR calls, in one translation unit for each target.
#ifdef TARGET_PTX
#include "entry_ptx.h"
#include "math_ptx.h"
#include "target_ptx.h"
#else
#include "math_host.h"
#include "target_host.h"
#endif
#include "atomic.h"
#include "convert.h"
#include "integer.h"
#include "lanes.h"
#include "math.h"
#include "matrix.h"

#define Eigen EigenAvx512
#include "quantize/linear_algebra_impl.h"

namespace metal_marlin::linear_algebra {

extern const Table kAvx512Table;
const Table kAvx512Table = make_table();

}  // namespace metal_marlin::linear_algebra

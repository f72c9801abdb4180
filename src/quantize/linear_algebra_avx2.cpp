#define Eigen EigenAvx2
#include "quantize/linear_algebra_impl.h"

namespace metal_marlin::linear_algebra {

extern const Table kAvx2Table;
const Table kAvx2Table = make_table();

}  // namespace metal_marlin::linear_algebra

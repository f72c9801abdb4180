#define Eigen EigenPlain
#include "quantize/linear_algebra_impl.h"

namespace metal_marlin::linear_algebra {

extern const Table kPlainTable;
const Table kPlainTable = make_table();

}  // namespace metal_marlin::linear_algebra
